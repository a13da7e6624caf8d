// SPDX-License-Identifier: Apache-2.0
//
// What `moultctl top` makes of two answers of `ps`, and of one of `pages`.
#ifndef MOULT_TOOLS_MOULTCTL_TOP_H_
#define MOULT_TOOLS_MOULTCTL_TOP_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "control/message.h"
#include "ledger.h"

namespace moult::ctl {

// A function that lives, or has something in the pool still; what was not told is nullopt.
struct Load {
  uint64_t id = 0;
  std::string name;
  std::string state;
  std::optional<uint64_t> user_bytes;  // anonymous and shared memory, in RAM or out
  std::optional<uint64_t> resident_bytes, offloaded_bytes;
  std::optional<uint64_t> template_bytes;  // still shared with its template; only the ledger tells
  std::optional<uint64_t> faults, recalls;        // counters
  std::optional<double> fault_rate, recall_rate;  // a second; nullopt without an earlier count
  Segments segments;
};

// kDataLoss when the answer has no list of functions.
absl::StatusOr<std::vector<Load>> ParseLoads(const Json& result);

// The name of a function in an answer of `ps`: in some states only its specification has it.
std::string FunctionName(const Json& function);
// Anonymous and shared memory together; nullopt when neither was told.
std::optional<uint64_t> UserBytes(const Json& function);
// What it has in RAM: all that the guest's kernel counts for it, without what is out, of which the guest does not know.
// nullopt when the former was not told.
std::optional<uint64_t> ResidentBytes(const Json& function);

// How fast a counter rises. nullopt when either is unknown, no time has passed, or it began anew: what it had
// counted before that nobody knows.
std::optional<double> Rate(std::optional<uint64_t> before, std::optional<uint64_t> now, double seconds);

// `now` with the rates since `before`, the most user state first. A function is the same when id and name
// are.
std::vector<Load> WithRates(const std::vector<Load>& before, std::vector<Load> now, double seconds);

// What only the ledger tells: segments, and how much of its template each still shares. A function is the same when id and
// name are.
void AddPages(const Ledger& ledger, std::vector<Load>* loads);

// A head line and one for each function, at most `max_lines` in all.
std::string TopText(const std::vector<Load>& loads, size_t max_lines);
// One round as an object.
Json TopJson(const std::vector<Load>& loads);

}  // namespace moult::ctl

#endif  // MOULT_TOOLS_MOULTCTL_TOP_H_
