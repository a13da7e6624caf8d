// SPDX-License-Identifier: Apache-2.0
//
// A shared mapping of a file opened for reading can still not be made writable.
#include "victim.h"

int main(int argc, char** argv) {
  VictimInit(argc, argv);
  SYS(close(VictimFile("readonly", 4 * kPage, 8)));
  const int fd = (int)SYS(open(VictimPath("readonly"), O_RDONLY));
  char* map = VictimMap(NULL, 4 * kPage, PROT_READ, MAP_SHARED, fd, 0);
  SYS(close(fd));
  VictimVerify(map, 4 * kPage, 8);
  VictimReady();
  VictimVerify(map, 4 * kPage, 8);
  CHECK_STR(VictimFindVma(map).perms, "r--s");
  CHECK_ERRNO(mprotect(map, kPage, PROT_READ | PROT_WRITE), EACCES);
  VictimPass();
}
