// SPDX-License-Identifier: Apache-2.0
#include "ptrace/wait.h"

#include <csignal>
#include <ctime>

#include <sys/ptrace.h>
#include <sys/wait.h>

namespace moult::ptrace {

void BlockChildSignal() {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGCHLD);
  pthread_sigmask(SIG_BLOCK, &set, nullptr);
}

absl::StatusOr<int> WaitChild(pid_t tid, Clock::time_point deadline) {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGCHLD);
  for (;;) {
    int status = 0;
    const pid_t got = waitpid(tid, &status, __WALL | WNOHANG);
    if (got == tid) return status;
    if (got < 0 && errno != EINTR) return ErrnoStatus(absl::StrCat("wait for thread ", tid));
    const auto left = deadline - Clock::now();
    if (left <= Clock::duration::zero()) {
      return absl::DeadlineExceededError(absl::StrCat("thread ", tid, " did not stop in time"));
    }
    // A stop that came after waitpid left a pending SIGCHLD, so this returns at once. Signals coalesce and
    // another thread's may be taken here, hence the cap: a wake-up is at most late, never lost.
    const auto ns = std::min<std::chrono::nanoseconds>(left, std::chrono::milliseconds(10)).count();
    const timespec wait{ns / 1'000'000'000, ns % 1'000'000'000};
    sigtimedwait(&set, nullptr, &wait);
  }
}

bool IsGone(int status) { return WIFEXITED(status) || WIFSIGNALED(status); }
bool IsEventStop(int status) { return WIFSTOPPED(status) && status >> 16 == PTRACE_EVENT_STOP; }
bool IsGroupStop(int status) { return IsEventStop(status) && WSTOPSIG(status) != SIGTRAP; }

std::string DescribeStatus(int status) {
  if (WIFEXITED(status)) return absl::StrCat("exited with status ", WEXITSTATUS(status));
  if (WIFSIGNALED(status)) return absl::StrCat("killed by signal ", WTERMSIG(status));
  return absl::StrCat("stopped by signal ", WSTOPSIG(status), ", event ", status >> 16);
}

}  // namespace moult::ptrace
