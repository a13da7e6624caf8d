// SPDX-License-Identifier: Apache-2.0
//
// A thread in epoll_wait gets an event that comes afterwards. EINTR is allowed: Linux gives it after SIGCONT
// too.
#include <sys/epoll.h>

#include "victim.h"

static int poller;

static void* Waiter(void* unused) {
  struct epoll_event event;
  int count;
  while ((count = (int)syscall(SYS_epoll_wait, poller, &event, 1, -1)) < 0) CHECK_EQ(errno, EINTR);
  CHECK_EQ(count, 1);
  CHECK_EQ(event.data.u64, 0xfeedfacecafebeef);
  CHECK_EQ(event.events, EPOLLIN);
  return unused;
}

int main(int argc, char** argv) {
  VictimInit(argc, argv);
  int ends[2];
  struct VictimThread waiter;
  SYS(pipe(ends));
  poller = (int)SYS(epoll_create1(EPOLL_CLOEXEC));
  struct epoll_event event = {.events = EPOLLIN, .data.u64 = 0xfeedfacecafebeef};
  SYS(epoll_ctl(poller, EPOLL_CTL_ADD, ends[0], &event));
  VictimSpawn(&waiter, Waiter, NULL);
  VictimAwaitBlocked(waiter.tid, SYS_epoll_wait);
  VictimReady();
  SYS(write(ends[1], "e", 1));
  VictimJoin(&waiter);
  VictimPass();
}
