// SPDX-License-Identifier: Apache-2.0
#include "ptrace/wait.h"

#include <csignal>
#include <ctime>

#include <sys/ptrace.h>
#include <sys/wait.h>

#include "proc/read.h"
#include "proc/stat.h"
#include "proc/status.h"

namespace moult::ptrace {
namespace {

bool IsZombie(pid_t tid) {
  auto text = proc::ReadFile(absl::StrCat("/proc/", tid, "/stat"));
  if (!text.ok()) return false;
  auto stat = proc::ParseStat(*text);
  return stat.ok() && stat->state == 'Z';
}

}  // namespace

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
  for (bool zombie = false;;) {
    int status = 0;
    const pid_t got = waitpid(tid, &status, __WALL | WNOHANG);
    if (got == tid) return status;
    if (got < 0 && errno != EINTR) return ErrnoStatus(absl::StrCat("wait for thread ", tid));
    // The kernel reports a dead leader only when its tracer has reaped the other threads, which may be what
    // comes after this wait.
    if (zombie) return absl::NotFoundError(absl::StrCat("thread ", tid, " has ended, others of its process are left"));
    const auto left = deadline - Clock::now();
    if (left <= Clock::duration::zero()) {
      return absl::DeadlineExceededError(absl::StrCat("thread ", tid, " did not stop in time"));
    }
    // A stop that came after waitpid left a pending SIGCHLD, so this returns at once. Signals coalesce and
    // another thread's may be taken here, hence the cap: a wake-up is at most late, never lost.
    const auto ns = std::min<std::chrono::nanoseconds>(left, std::chrono::milliseconds(10)).count();
    const timespec wait{ns / 1'000'000'000, ns % 1'000'000'000};
    sigtimedwait(&set, nullptr, &wait);
    zombie = IsZombie(tid);
  }
}

bool IsEnding(pid_t tid) {
  // What is pending first: it goes from there as the flag is set.
  auto text = proc::ReadFile(absl::StrCat("/proc/", tid, "/status"));
  if (!text.ok()) return absl::IsNotFound(text.status());
  constexpr uint64_t kKillBit = uint64_t{1} << (SIGKILL - 1);
  auto status = proc::ParseStatus(*text);
  if (status.ok() && ((status->sig_pending | status->shared_pending) & kKillBit) != 0) return true;
  text = proc::ReadFile(absl::StrCat("/proc/", tid, "/stat"));
  if (!text.ok()) return absl::IsNotFound(text.status());
  auto stat = proc::ParseStat(*text);
  constexpr uint32_t kEnding = 0x4 | 0x400;  // PF_EXITING, PF_SIGNALED
  return stat.ok() && (stat->state == 'Z' || stat->state == 'X' || (stat->flags & kEnding) != 0);
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
