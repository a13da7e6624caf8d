// SPDX-License-Identifier: Apache-2.0
//
// The devices every program may have: null, zero, full, random and urandom.
#include "victim.h"

int main(int argc, char** argv) {
  VictimInit(argc, argv);
  const int null = (int)SYS(open("/dev/null", O_RDWR));
  const int zero = (int)SYS(open("/dev/zero", O_RDONLY | O_CLOEXEC));
  const int full = (int)SYS(open("/dev/full", O_WRONLY));
  const int random = (int)SYS(open("/dev/random", O_RDONLY | O_NONBLOCK));
  const int urandom = (int)SYS(open("/dev/urandom", O_RDONLY));
  VictimReady();
  char buffer[64];
  CHECK_EQ(read(null, buffer, 64), 0);
  CHECK_EQ(write(null, buffer, 64), 64);
  memset(buffer, 1, 64);
  CHECK_EQ(read(zero, buffer, 64), 64);
  VictimVerifyZero(buffer, 64);
  CHECK_ERRNO(write(full, buffer, 64), ENOSPC);
  CHECK_EQ(read(random, buffer, 8), 8);
  CHECK_EQ(read(urandom, buffer, 64), 64);
  CHECK_EQ(fcntl(zero, F_GETFD), FD_CLOEXEC);
  CHECK(fcntl(random, F_GETFL) & O_NONBLOCK, "O_NONBLOCK of /dev/random is gone");
  VictimPass();
}
