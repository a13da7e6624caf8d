// SPDX-License-Identifier: Apache-2.0
//
// An epoll set of fifty descriptors with data and flags, one of them edge-triggered and once only.
#include <sys/epoll.h>
#include <sys/eventfd.h>

#include "victim.h"

enum { kCount = 50 };

int main(int argc, char** argv) {
  VictimInit(argc, argv);
  const int poller = (int)SYS(epoll_create1(0));
  int fds[kCount];
  for (int i = 0; i < kCount; i++) {
    fds[i] = (int)SYS(eventfd(0, EFD_NONBLOCK));
    struct epoll_event event = {.events = EPOLLIN, .data.u64 = 0x1000000000000000ull + (uint64_t)i};
    if (i == 10) event.events |= EPOLLET;
    if (i == 11) event.events |= EPOLLONESHOT;
    SYS(epoll_ctl(poller, EPOLL_CTL_ADD, fds[i], &event));
  }
  struct epoll_event events[kCount];
  SYS(eventfd_write(fds[11], 1));  // uses the one shot up
  CHECK_EQ(SYS(epoll_wait(poller, events, kCount, 0)), 1);
  VictimReady();
  CHECK_EQ(SYS(epoll_wait(poller, events, kCount, 0)), 0);
  for (int i = 0; i < kCount; i++) SYS(eventfd_write(fds[i], 1));
  CHECK_EQ(SYS(epoll_wait(poller, events, kCount, 0)), kCount - 1);
  uint64_t seen = 0;
  for (int i = 0; i < kCount - 1; i++) {
    CHECK_EQ(events[i].data.u64 >> 60, 1);
    CHECK_EQ(events[i].events, EPOLLIN);
    seen |= 1ull << (events[i].data.u64 & 63);
  }
  CHECK_EQ(seen, ((1ull << kCount) - 1) & ~(1ull << 11));
  CHECK_EQ(SYS(epoll_wait(poller, events, kCount, 0)), kCount - 2);  // the edge was taken
  struct epoll_event again = {.events = EPOLLIN, .data.u64 = 7};
  CHECK_ERRNO(epoll_ctl(poller, EPOLL_CTL_ADD, fds[0], &again), EEXIST);
  SYS(epoll_ctl(poller, EPOLL_CTL_MOD, fds[11], &again));
  SYS(epoll_ctl(poller, EPOLL_CTL_DEL, fds[0], NULL));
  CHECK_EQ(SYS(epoll_wait(poller, events, kCount, 0)), kCount - 2);
  VictimPass();
}
