// SPDX-License-Identifier: Apache-2.0
//
// /proc/PID/timers: the POSIX timers of a process. What is left of each is not in there (timer_gettime(2)).
#ifndef MOULT_PROC_TIMERS_H_
#define MOULT_PROC_TIMERS_H_

#include <sys/types.h>

#include <cstdint>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace moult::proc {

struct PosixTimer {
  int id = 0;
  int signo = 0;
  uint64_t sigval = 0;
  int notify = 0;       // SIGEV_SIGNAL, SIGEV_NONE or SIGEV_THREAD
  bool thread = false;  // SIGEV_THREAD_ID: `target` is a tid
  pid_t target = 0;     // in the reader's pid namespace
  int clock = 0;        // CLOCK_*, negative for the CPU clock of a process or thread
};

absl::StatusOr<std::vector<PosixTimer>> ParseTimers(std::string_view text);

}  // namespace moult::proc

#endif  // MOULT_PROC_TIMERS_H_
