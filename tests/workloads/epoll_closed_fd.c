// SPDX-License-Identifier: Apache-2.0
//
// An item added under a number that was closed since, while a duplicate keeps the file open: it still
// reports.
#include <sys/epoll.h>

#include "victim.h"

int main(int argc, char** argv) {
  VictimInit(argc, argv);
  int ends[2];
  SYS(pipe(ends));
  const int poller = (int)SYS(epoll_create1(0));
  const int copy = (int)SYS(dup(ends[0]));
  struct epoll_event event = {.events = EPOLLIN, .data.u64 = 99};
  SYS(epoll_ctl(poller, EPOLL_CTL_ADD, ends[0], &event));
  SYS(close(ends[0]));
  VictimReady();
  CHECK_ERRNO(fcntl(ends[0], F_GETFD), EBADF);
  SYS(write(ends[1], "x", 1));
  CHECK_EQ(SYS(epoll_wait(poller, &event, 1, 1000)), 1);
  CHECK_EQ(event.data.u64, 99);
  CHECK_ERRNO(epoll_ctl(poller, EPOLL_CTL_DEL, copy, NULL), ENOENT);
  VictimPass();
}
