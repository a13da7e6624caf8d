// SPDX-License-Identifier: Apache-2.0
//
// Descriptor numbers with gaps and a high one stay; the lowest free number is the next to be given.
#include "victim.h"

int main(int argc, char** argv) {
  VictimInit(argc, argv);
  const int file = VictimFile("numbers", 100, 76);
  static const int kNumbers[] = {5, 17, 64, 255, 900};
  for (int i = 0; i < 5; i++) SYS(dup2(file, kNumbers[i]));
  SYS(lseek(file, 50, SEEK_SET));
  const int lowest = (int)SYS(dup(file));
  SYS(close(lowest));
  VictimReady();
  for (int i = 0; i < 5; i++) CHECK_EQ(lseek(kNumbers[i], 0, SEEK_CUR), 50);
  CHECK_EQ(dup(file), lowest);
  CHECK_ERRNO(fcntl(16, F_GETFD), EBADF);
  CHECK_ERRNO(fcntl(901, F_GETFD), EBADF);
  VictimPass();
}
