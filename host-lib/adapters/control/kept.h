// SPDX-License-Identifier: Apache-2.0
//
// What the keeper knows of one function. Only for keeper*.cc.
#ifndef MOULT_ADAPTERS_CONTROL_KEPT_H_
#define MOULT_ADAPTERS_CONTROL_KEPT_H_

#include <array>
#include <string>
#include <vector>

#include "keeper.h"
#include "moult/policy.h"

namespace moult::control {

inline constexpr std::array<const char*, MOULT_SEGMENTS> kSegmentNames = {"runtime", "init", "exec"};

struct Keeper::Kept {
  Kept(Keeper* with, uint64_t id) : keeper(with), function(id) {}
  Kept(const Kept&) = delete;
  Kept& operator=(const Kept&) = delete;
  ~Kept() {
    moult_op_free(op);
    moult_policy_close(policy);
    moult_intervals_free(intervals);
  }

  Keeper* const keeper;
  const uint64_t function;
  std::string spec;
  moult_policy* policy = nullptr;
  moult_intervals* intervals = nullptr;
  Clock::time_point last_start = Clock::now();
  Clock::time_point last_end = last_start;
  Clock::time_point wake = last_start;  // when something is to be done: ask the policy, or try again to let it run
  bool frozen = true;     // may be
  bool measured = false;  // the two arrays are what it has now
  std::array<uint64_t, MOULT_SEGMENTS> resident{};
  std::array<uint64_t, MOULT_SEGMENTS> offloaded{};
  moult_policy_decision decision = MOULT_INIT(decision);  // is carried out while `moving`
  bool moving = false;
  size_t next_in_order = 0;  // in kOffloadOrder
  moult_op* op = nullptr;
  Step step = Step::kMeasure;  // what `op` is for
  bool cancelled = false;      // `op`, by us
  absl::Status trouble;
  Clock::time_point told{};    // when the log had a trouble last
  int tries = 0;               // to let it run, without success
  bool recalls = true;         // false: its pages could not be fetched ahead
  bool look = true;            // whether it lives, and stands still
  Clock::time_point looked{};  // when that was seen last
  bool ended = false;          // it does not live
  bool leaving = false;        // forgotten as soon as it runs and no operation is under way
  std::vector<Left> left;      // to be told then
  absl::Status not_let_run;    // what they are told
  Counts counts;
};

}  // namespace moult::control

#endif  // MOULT_ADAPTERS_CONTROL_KEPT_H_
