// SPDX-License-Identifier: Apache-2.0
//
// Memory with a protection key cannot be captured: refused, and the key stays.
#include "victim.h"

int main(int argc, char** argv) {
  VictimInit(argc, argv);
  const int key = pkey_alloc(0, 0);
  if (key < 0) VictimSkip("pkey_alloc: %s", strerror(errno));
  char* memory = VictimIsland(kPage);
  VictimFill(memory, kPage, 4);
  SYS(pkey_mprotect(memory, kPage, PROT_READ | PROT_WRITE, key));
  VictimReady();
  VictimVerify(memory, kPage, 4);
  CHECK_EQ(VictimSmapsKb(memory, "ProtectionKey"), key);
  VictimPass();
}
