// SPDX-License-Identifier: Apache-2.0
//
// An epoll set inside another one.
#include <sys/epoll.h>

#include "victim.h"

int main(int argc, char** argv) {
  VictimInit(argc, argv);
  int ends[2];
  SYS(pipe(ends));
  const int inner = (int)SYS(epoll_create1(0)), outer = (int)SYS(epoll_create1(EPOLL_CLOEXEC));
  struct epoll_event event = {.events = EPOLLIN, .data.u64 = 1};
  SYS(epoll_ctl(inner, EPOLL_CTL_ADD, ends[0], &event));
  event.data.u64 = 2;
  SYS(epoll_ctl(outer, EPOLL_CTL_ADD, inner, &event));
  VictimReady();
  CHECK_EQ(SYS(epoll_wait(outer, &event, 1, 0)), 0);
  SYS(write(ends[1], "x", 1));
  CHECK_EQ(SYS(epoll_wait(outer, &event, 1, 1000)), 1);
  CHECK_EQ(event.data.u64, 2);
  CHECK_EQ(SYS(epoll_wait(inner, &event, 1, 1000)), 1);
  CHECK_EQ(event.data.u64, 1);
  CHECK_EQ(fcntl(outer, F_GETFD), FD_CLOEXEC);
  VictimPass();
}
