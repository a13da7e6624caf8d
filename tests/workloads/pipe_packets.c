// SPDX-License-Identifier: Apache-2.0
//
// A packet pipe (O_DIRECT) keeps the boundaries of what was written.
#include "victim.h"

int main(int argc, char** argv) {
  VictimInit(argc, argv);
  int ends[2];
  SYS(pipe2(ends, O_DIRECT));
  static const int kSizes[] = {1, 100, 4096, 7, 7};
  char data[4096];
  for (int i = 0; i < 5; i++) {
    VictimFill(data, (size_t)kSizes[i], (uint64_t)i);
    CHECK_EQ(write(ends[1], data, (size_t)kSizes[i]), kSizes[i]);
  }
  VictimReady();
  CHECK_EQ(fcntl(ends[1], F_GETFL) & O_DIRECT, O_DIRECT);
  for (int i = 0; i < 5; i++) {
    CHECK_EQ(SYS(read(ends[0], data, sizeof(data))), kSizes[i]);
    VictimVerify(data, (size_t)kSizes[i], (uint64_t)i);
  }
  SYS(write(ends[1], "aa", 2));
  SYS(write(ends[1], "b", 1));
  CHECK_EQ(read(ends[0], data, 100), 2);
  VictimPass();
}
