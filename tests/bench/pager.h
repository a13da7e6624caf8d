// SPDX-License-Identifier: Apache-2.0
//
// What the host library's pager costs, against the bare kernel calls that it cannot do without, in turns with
// them in the same process.
#ifndef MOULT_BENCH_PAGER_H_
#define MOULT_BENCH_PAGER_H_

#include <string>
#include <vector>

#include "moult/base/status.h"
#include "stats.h"

namespace moult::bench {

struct PagerArguments {
  std::string json;
  std::string pool = "/dev/shm";
  int rounds = 7;
  int mib = 256;
};

// A row: ours and its peer, a sample of each a round.
struct PagerRow {
  std::string name;
  std::string peer;
  std::string unit;
  double goal = 0;  // of ours / peer (of rates: peer / ours); 0: none
  bool rate = false;
  std::vector<double> ours = {};
  std::vector<double> theirs = {};
  // How many times what the peer takes, round by round.
  Summary Ratios() const;
};

void PrintRow(const PagerRow& row);
nlohmann::ordered_json ToJson(const PagerRow& row);

absl::StatusOr<std::vector<PagerRow>> MeasurePager(const PagerArguments& arguments);

int RunPager(const PagerArguments& arguments);

}  // namespace moult::bench

#endif  // MOULT_BENCH_PAGER_H_
