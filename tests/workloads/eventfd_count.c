// SPDX-License-Identifier: Apache-2.0
//
// An eventfd keeps its count; a semaphore one counts down by ones.
#include <sys/eventfd.h>

#include "victim.h"

int main(int argc, char** argv) {
  VictimInit(argc, argv);
  const int counter = (int)SYS(eventfd(0x123456789u >> 4, EFD_NONBLOCK));
  const int semaphore = (int)SYS(eventfd(3, EFD_SEMAPHORE | EFD_NONBLOCK | EFD_CLOEXEC));
  SYS(eventfd_write(counter, 1ull << 40));
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
  VictimPass();
}
