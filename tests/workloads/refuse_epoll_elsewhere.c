// SPDX-License-Identifier: Apache-2.0
//
// An epoll set that watches a file of which only another process has a descriptor cannot be captured:
// refused, and it still reports.
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/wait.h>

#include "victim.h"

static void Await(const char* name) {
  while (access(VictimPath(name), F_OK) != 0) VictimSleepMs(2);
}

// Starts a process that is no child of this one, adds to the counter when SCRATCH/add is there, and keeps it
// open.
static void Elsewhere(int counter) {
  const pid_t middle = (pid_t)SYS(fork());
  if (middle == 0) {
    if (fork() == 0) {
      Await("add");
      if (eventfd_write(counter, 1) != 0) _exit(1);
      Await("result");
      _exit(0);
    }
    _exit(0);
  }
  SYS(waitpid(middle, NULL, 0));
}

int main(int argc, char** argv) {
  VictimInit(argc, argv);
  const int poller = (int)SYS(epoll_create1(EPOLL_CLOEXEC)), counter = (int)SYS(eventfd(0, 0));
  struct epoll_event event = {.events = EPOLLIN, .data.u64 = 66};
  SYS(epoll_ctl(poller, EPOLL_CTL_ADD, counter, &event));
  Elsewhere(counter);
  SYS(close(counter));
  VictimReady();
  SYS(close(VictimFile("add", 1, 0)));
  CHECK_EQ(SYS(epoll_wait(poller, &event, 1, 10000)), 1);
  CHECK_EQ(event.data.u64, 66);
  VictimPass();
}
