// SPDX-License-Identifier: Apache-2.0
//
// /proc/timer_list: every armed high-resolution timer of the machine (kernel/time/timer_list.c). It does not
// say whose a timer is.
#ifndef MOULT_PROC_TIMER_LIST_H_
#define MOULT_PROC_TIMER_LIST_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace moult::proc {

// A timer whose end wakes a thread that sleeps (hrtimer_wakeup).
struct WakeupTimer {
  std::string id;        // as the kernel prints it: a hash of its address
  int64_t expires_ns;    // soft expiry: what the thread asked for, on the timer's own clock
  int64_t remaining_ns;  // until then; negative once it is due

  bool operator==(const WakeupTimer&) const = default;
};

absl::StatusOr<std::vector<WakeupTimer>> ParseTimerList(std::string_view text);

}  // namespace moult::proc

#endif  // MOULT_PROC_TIMER_LIST_H_
