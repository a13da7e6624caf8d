// SPDX-License-Identifier: Apache-2.0
//
// Waiting for traced threads with a bound. SIGCHLD must be blocked in the calling thread (BlockChildSignal).
#ifndef MOULT_PTRACE_WAIT_H_
#define MOULT_PTRACE_WAIT_H_

#include <sys/types.h>

#include <chrono>

#include "moult/base/status.h"

namespace moult::ptrace {

using Clock = std::chrono::steady_clock;

// How long one stop may take before the thread counts as unresponsive.
inline constexpr std::chrono::seconds kStopTimeout{5};

// Blocks SIGCHLD, so that WaitChild can sleep on it without missing a wake-up.
void BlockChildSignal();

// The next wait status of `tid` (a child or tracee). kDeadlineExceeded when none comes until `deadline`,
// kNotFound when it is no child or tracee of ours any more, or is a leader that died while other traced
// threads of its process are not reaped.
absl::StatusOr<int> WaitChild(pid_t tid, Clock::time_point deadline);

// The thread has ended or is about to, whether or not anyone was told. Calls on it fail, and not always with ESRCH: attaching
// to one says EPERM.
bool IsEnding(pid_t tid);

// Facts about a wait status of a seized tracee.
bool IsGone(int status);            // exited or killed
bool IsEventStop(int status);       // PTRACE_EVENT_STOP, after PTRACE_INTERRUPT or as a group stop
bool IsGroupStop(int status);       // the group-stop form of it
std::string DescribeStatus(int status);

}  // namespace moult::ptrace

#endif  // MOULT_PTRACE_WAIT_H_
