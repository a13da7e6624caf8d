// SPDX-License-Identifier: Apache-2.0
//
// What `moultctl top` makes of two answers of `ps`.
#ifndef MOULT_TOOLS_MOULTCTL_TOP_H_
#define MOULT_TOOLS_MOULTCTL_TOP_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "control/message.h"

namespace moult::ctl {

using control::Json;

// A living function; what was not told is nullopt.
struct Load {
  uint64_t id = 0;
  std::string name;
  std::string state;
  std::optional<uint64_t> user_bytes;  // anonymous and shared memory
  std::optional<uint64_t> resident_bytes, offloaded_bytes, template_bytes;
  std::optional<uint64_t> faults, recalls;        // counters
  std::optional<double> fault_rate, recall_rate;  // a second; nullopt without an earlier count
};

// kDataLoss when the answer has no list of functions.
absl::StatusOr<std::vector<Load>> ParseLoads(const Json& result);

// The name of a function in an answer of `ps`: in some states only its specification has it.
std::string FunctionName(const Json& function);
// Anonymous and shared memory together; nullopt when neither was told.
std::optional<uint64_t> UserBytes(const Json& function);

// How fast a counter rises. nullopt when either is unknown, no time has passed, or it began anew: what it had
// counted before that nobody knows.
std::optional<double> Rate(std::optional<uint64_t> before, std::optional<uint64_t> now, double seconds);

// `now` with the rates since `before`, the most user state first. A function is the same when id and name
// are.
std::vector<Load> WithRates(const std::vector<Load>& before, std::vector<Load> now, double seconds);

// A head line and one for each function, at most `max_lines` in all.
std::string TopText(const std::vector<Load>& loads, size_t max_lines);
// One round as an object.
Json TopJson(const std::vector<Load>& loads);

}  // namespace moult::ctl

#endif  // MOULT_TOOLS_MOULTCTL_TOP_H_
