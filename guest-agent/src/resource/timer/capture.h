// SPDX-License-Identifier: Apache-2.0
#ifndef MOULT_RESOURCE_TIMER_CAPTURE_H_
#define MOULT_RESOURCE_TIMER_CAPTURE_H_

#include <vector>

#include "image/capture_context.h"
#include "proc/timers.h"
#include "ptrace/program_builder.h"

namespace moult::engine {

// Interval timers (setitimer) and POSIX timers (timer_create).
struct TimerQuestions {
  std::vector<proc::PosixTimer> posix;
  size_t intervals;            // 3 itimerval
  size_t posix_values;         // one itimerspec each
  std::vector<size_t> overrun_ops;
};
absl::StatusOr<TimerQuestions> AskTimers(pid_t pid, ptrace::ProgramBuilder& program);
absl::Status TakeAnswers(const TimerQuestions& questions, const ptrace::ProgramResult& result, CaptureContext& context);

}  // namespace moult::engine

#endif  // MOULT_RESOURCE_TIMER_CAPTURE_H_
