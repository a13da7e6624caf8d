// SPDX-License-Identifier: Apache-2.0
//
// A FIFO with data waiting, open for reading, writing and both.
#include "victim.h"

int main(int argc, char** argv) {
  VictimInit(argc, argv);
  SYS(mkfifo(VictimPath("fifo"), 0600));
  const int both = (int)SYS(open(VictimPath("fifo"), O_RDWR));
  const int reader = (int)SYS(open(VictimPath("fifo"), O_RDONLY | O_NONBLOCK));
  const int writer = (int)SYS(open(VictimPath("fifo"), O_WRONLY));
  SYS(write(both, "first", 5));
  SYS(write(writer, "second", 6));
  VictimReady();
  char buffer[32];
  CHECK_EQ(read(reader, buffer, 5), 5);
  CHECK(memcmp(buffer, "first", 5) == 0, "first part changed");
  CHECK_EQ(read(both, buffer, 32), 6);
  CHECK(memcmp(buffer, "second", 6) == 0, "second part changed");
  CHECK_ERRNO(read(reader, buffer, 1), EAGAIN);
  const int late = (int)SYS(open(VictimPath("fifo"), O_WRONLY | O_NONBLOCK));
  SYS(write(late, "z", 1));
  CHECK_EQ(read(reader, buffer, 2), 1);
  VictimPass();
}
