// SPDX-License-Identifier: Apache-2.0
//
// Private mappings of /dev/zero, one read-only and one written to.
#include "victim.h"

int main(int argc, char** argv) {
  VictimInit(argc, argv);
  const int fd = (int)SYS(open("/dev/zero", O_RDONLY));
  char* read_only = VictimMap(NULL, 4 * kPage, PROT_READ, MAP_PRIVATE, fd, 0);
  char* written = VictimMap(NULL, 4 * kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
  SYS(close(fd));
  VictimFill(written, 2 * kPage, 50);
  VictimReady();
  VictimVerifyZero(read_only, 4 * kPage);
  VictimVerify(written, 2 * kPage, 50);
  VictimVerifyZero(written + 2 * kPage, 2 * kPage);
  CHECK_STR(VictimFindVma(read_only).perms, "r--p");
  VictimPass();
}
