// SPDX-License-Identifier: Apache-2.0
//
// Memory that is sealed with mseal cannot be captured: refused, and it stays sealed.
#include "victim.h"

int main(int argc, char** argv) {
  VictimInit(argc, argv);
  char* memory = VictimIsland(kPage);
  VictimFill(memory, kPage, 3);
  enum { kSysMseal = 462 };  // Linux 6.10
  if (syscall(kSysMseal, memory, kPage, 0) < 0) VictimSkip("mseal: %s", strerror(errno));
  VictimReady();
  VictimVerify(memory, kPage, 3);
  CHECK_ERRNO(munmap(memory, kPage), EPERM);
  VictimPass();
}
