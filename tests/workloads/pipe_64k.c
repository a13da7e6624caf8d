// SPDX-License-Identifier: Apache-2.0
//
// A full pipe of 64 KiB keeps every byte in order.
#include "victim.h"

int main(int argc, char** argv) {
  VictimInit(argc, argv);
  enum { kSize = 65536 };
  static char data[kSize];
  int ends[2];
  SYS(pipe(ends));
  VictimFill(data, kSize, 20);
  for (int i = 0; i < kSize; i += 512) CHECK_EQ(write(ends[1], data + i, 512), 512);
  memset(data, 0, kSize);
  VictimReady();
  size_t got = 0;
  while (got < kSize) got += (size_t)SYS(read(ends[0], data + got, kSize - got));
  VictimVerify(data, kSize, 20);
  SYS(fcntl(ends[0], F_SETFL, O_NONBLOCK));
  CHECK_ERRNO(read(ends[0], data, 1), EAGAIN);
  CHECK_EQ(write(ends[1], "x", 1), 1);
  CHECK_EQ(read(ends[0], data, 2), 1);
  CHECK_EQ(data[0], 'x');
  VictimPass();
}
