// SPDX-License-Identifier: Apache-2.0
//
// Edge-triggered items: an edge that nobody has fetched yet is still reported, and a new one after it; a
// one-shot item that has fired stays silent until it is armed again.
#include <sys/epoll.h>

#include "victim.h"

static int poller, edge[2], once[2];

static void Expect(uint64_t data) {
  struct epoll_event events[2];
  CHECK_EQ(SYS(epoll_wait(poller, events, 2, 0)), 1);
  CHECK_EQ(events[0].data.u64, data);
  CHECK_EQ(events[0].events, EPOLLIN);
}

int main(int argc, char** argv) {
  VictimInit(argc, argv);
  struct epoll_event event;
  poller = (int)SYS(epoll_create1(EPOLL_CLOEXEC));
  SYS(pipe(edge));
  SYS(pipe(once));
  event = (struct epoll_event){.events = EPOLLIN | EPOLLET, .data.u64 = 1};
  SYS(epoll_ctl(poller, EPOLL_CTL_ADD, edge[0], &event));
  event = (struct epoll_event){.events = EPOLLIN | EPOLLONESHOT, .data.u64 = 2};
  SYS(epoll_ctl(poller, EPOLL_CTL_ADD, once[0], &event));
  SYS(write(once[1], "x", 1));
  Expect(2);
  SYS(write(edge[1], "x", 1));
  VictimReady();
  Expect(1);
  CHECK_EQ(SYS(epoll_wait(poller, &event, 1, 0)), 0);  // both are readable, and neither says so again
  SYS(write(edge[1], "x", 1));
  SYS(write(once[1], "x", 1));
  Expect(1);
  event = (struct epoll_event){.events = EPOLLIN | EPOLLONESHOT, .data.u64 = 3};
  SYS(epoll_ctl(poller, EPOLL_CTL_MOD, once[0], &event));
  Expect(3);
  VictimPass();
}
