// SPDX-License-Identifier: Apache-2.0
//
// An eventfd keeps its count; a semaphore one counts down by ones.
#include <sys/eventfd.h>

#include "victim.h"

// A counter gives all at once, a semaphore one; whatever it held when it was captured.
static void CheckKind(int fd, int semaphore, uint64_t held) {
  eventfd_t value = 0;
  SYS(eventfd_write(fd, 2));
  SYS(eventfd_read(fd, &value));
  CHECK_EQ(value, semaphore ? 1 : held + 2);
  for (uint64_t i = 0; semaphore && i < held + 1; i++) SYS(eventfd_read(fd, &value));
  CHECK_ERRNO(eventfd_read(fd, &value), EAGAIN);
}

int main(int argc, char** argv) {
  VictimInit(argc, argv);
  const int counter = (int)SYS(eventfd(0x123456789u >> 4, EFD_NONBLOCK));
  const int semaphore = (int)SYS(eventfd(3, EFD_SEMAPHORE | EFD_NONBLOCK | EFD_CLOEXEC));
  SYS(eventfd_write(counter, 1ull << 40));
  int low[2][3];
  for (unsigned kind = 0; kind < 2; kind++) {
    for (unsigned held = 0; held < 3; held++) low[kind][held] = (int)SYS(eventfd(held, EFD_NONBLOCK | (kind ? EFD_SEMAPHORE : 0)));
  }
  VictimReady();
  eventfd_t value = 0;
  SYS(eventfd_read(counter, &value));
  CHECK_EQ(value, (0x123456789u >> 4) + (1ull << 40));
  CHECK_ERRNO(eventfd_read(counter, &value), EAGAIN);
  for (int i = 0; i < 3; i++) {
    SYS(eventfd_read(semaphore, &value));
    CHECK_EQ(value, 1);
  }
  CHECK_ERRNO(eventfd_read(semaphore, &value), EAGAIN);
  CHECK_EQ(fcntl(semaphore, F_GETFD), FD_CLOEXEC);
  for (int kind = 0; kind < 2; kind++) {
    for (unsigned held = 0; held < 3; held++) CheckKind(low[kind][held], kind, held);
  }
  VictimPass();
}
