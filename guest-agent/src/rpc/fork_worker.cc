// SPDX-License-Identifier: Apache-2.0
#include "rpc/fork_worker.h"

#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>

namespace moult::agent {

absl::StatusOr<pid_t> ForkWorker(UniqueFd* ours, UniqueFd* theirs) {
  int ends[2];
  if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) < 0) return ErrnoStatus("socketpair");
  ours->Reset(ends[0]);
  theirs->Reset(ends[1]);
  const pid_t pid = fork();
  if (pid < 0) return CloneStatus(errno, "fork a worker");
  return pid;
}

void BecomeWorker(std::vector<int> keep) {
  std::sort(keep.begin(), keep.end());
  unsigned next = 3;
  for (const int fd : keep) {
    if (fd < static_cast<int>(next)) continue;
    if (static_cast<unsigned>(fd) > next) syscall(SYS_close_range, next, static_cast<unsigned>(fd) - 1, 0);
    next = static_cast<unsigned>(fd) + 1;
  }
  syscall(SYS_close_range, next, ~0u, 0);
  for (const int number : {SIGTERM, SIGINT, SIGHUP}) signal(number, SIG_IGN);
}

}  // namespace moult::agent
