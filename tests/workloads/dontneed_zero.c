// SPDX-License-Identifier: Apache-2.0
//
// MADV_DONTNEED on restored pages: anonymous ones become zero, those of files the file's.
#include "victim.h"

int main(int argc, char** argv) {
  VictimInit(argc, argv);
  char* anonymous = VictimAnon(16 * kPage);
  VictimFill(anonymous, 16 * kPage, 42);
  const int fd = VictimFile("dontneed", 4 * kPage, 43);
  char* file = VictimMap(NULL, 4 * kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
  VictimFill(file, 4 * kPage, 44);
  VictimReady();
  VictimVerify(anonymous, 16 * kPage, 42);
  VictimVerify(file, 4 * kPage, 44);
  SYS(madvise(anonymous + kPage, 8 * kPage, MADV_DONTNEED));
  VictimVerifyZero(anonymous + kPage, 8 * kPage);
  SYS(madvise(file, 4 * kPage, MADV_DONTNEED));
  VictimVerify(file, 4 * kPage, 43);
  VictimPass();
}
