// SPDX-License-Identifier: Apache-2.0
//
// Open files keep their position; descriptors made by dup share it, separate opens do not.
#include "victim.h"

int main(int argc, char** argv) {
  VictimInit(argc, argv);
  const int first = VictimFile("offset", 10000, 21);
  const int copy = (int)SYS(dup(first));
  const int other = (int)SYS(open(VictimPath("offset"), O_RDONLY));
  SYS(lseek(first, 1234, SEEK_SET));
  SYS(lseek(other, 77, SEEK_SET));
  VictimReady();
  CHECK_EQ(lseek(copy, 0, SEEK_CUR), 1234);
  CHECK_EQ(lseek(other, 0, SEEK_CUR), 77);
  char buffer[16];
  CHECK_EQ(read(copy, buffer, 16), 16);
  CHECK_EQ(lseek(first, 0, SEEK_CUR), 1250);
  CHECK_EQ(lseek(other, 0, SEEK_CUR), 77);
  CHECK_EQ(fcntl(first, F_GETFL) & O_ACCMODE, O_RDWR);
  CHECK_EQ(fcntl(other, F_GETFL) & O_ACCMODE, O_RDONLY);
  VictimPass();
}
