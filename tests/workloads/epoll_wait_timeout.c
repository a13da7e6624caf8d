// SPDX-License-Identifier: Apache-2.0
//
// A thread in epoll_wait with a time limit: the event that comes afterwards, or EINTR, which Linux gives
// after SIGCONT too, but never the end of the time before it is over.
#include <sys/epoll.h>

#include "victim.h"

enum { kLimitMs = 100000 };
static int poller;

static void* Waiter(void* unused) {
  struct epoll_event event;
  int count;
  while ((count = (int)syscall(SYS_epoll_wait, poller, &event, 1, kLimitMs)) < 0) CHECK_EQ(errno, EINTR);
  CHECK_EQ(count, 1);
  CHECK_EQ(event.data.u64, 77);
  return unused;
}

int main(int argc, char** argv) {
  VictimInit(argc, argv);
  int ends[2];
  struct VictimThread waiter;
  SYS(pipe(ends));
  poller = (int)SYS(epoll_create1(EPOLL_CLOEXEC));
  struct epoll_event event = {.events = EPOLLIN, .data.u64 = 77};
  SYS(epoll_ctl(poller, EPOLL_CTL_ADD, ends[0], &event));
  VictimSpawn(&waiter, Waiter, NULL);
  VictimAwaitBlocked(waiter.tid, SYS_epoll_wait);
  VictimReady();
  SYS(write(ends[1], "e", 1));
  VictimJoin(&waiter);
  VictimPass();
}
