// SPDX-License-Identifier: Apache-2.0
//
// A page of a read-execute private file mapping that was patched (as debuggers and dynamic linkers do) stays
// patched.
#include "victim.h"

int main(int argc, char** argv) {
  VictimInit(argc, argv);
  static const unsigned char kReturn7[] = {0xb8, 7, 0, 0, 0, 0xc3};
  const int fd = VictimFile("code", 4 * kPage, 0);
  CHECK_EQ(pwrite(fd, kReturn7, sizeof(kReturn7), 2 * kPage), sizeof(kReturn7));
  SYS(close(fd));
  const int code = (int)SYS(open(VictimPath("code"), O_RDONLY));
  unsigned char* map = VictimMap(NULL, 4 * kPage, PROT_READ | PROT_EXEC, MAP_PRIVATE, code, 0);
  SYS(close(code));
  SYS(mprotect(map + 2 * kPage, kPage, PROT_READ | PROT_WRITE));
  map[2 * kPage + 1] = 9;
  SYS(mprotect(map + 2 * kPage, kPage, PROT_READ | PROT_EXEC));
  int (*function)(void);
  void* at = map + 2 * kPage;
  memcpy(&function, &at, sizeof(function));
  CHECK_EQ(function(), 9);
  VictimReady();
  CHECK_EQ(function(), 9);
  CHECK_STR(VictimFindVma(at).perms, "r-xp");
  VictimPass();
}
