// SPDX-License-Identifier: Apache-2.0
//
// What replays came to, as a table and as JSON.
#ifndef MOULT_BENCH_REPLAY_REPORT_H_
#define MOULT_BENCH_REPLAY_REPORT_H_

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "replay/replay.h"

namespace moult::bench {

struct NamedResult {
  std::string name;  // of the policy, with its parameters
  ReplayResult result;
};

// Memory saved is against the first policy in the list that is a fixed keep-alive.
nlohmann::ordered_json ReplayJson(const std::vector<NamedResult>& results, const CostModel& cost);
std::string ReplayText(const std::vector<NamedResult>& results, const CostModel& cost);

}  // namespace moult::bench

#endif  // MOULT_BENCH_REPLAY_REPORT_H_
