// SPDX-License-Identifier: Apache-2.0
//
// mlock(2): the mapping is locked and its pages are in memory.
#include "victim.h"

int main(int argc, char** argv) {
  VictimInit(argc, argv);
  char* memory = VictimIsland(64 * kPage);
  VictimFill(memory, 8 * kPage, 30);
  SYS(mlock(memory, 64 * kPage));
  VictimReady();
  CHECK(VictimVmFlag(memory, "lo"), "VM_LOCKED is gone");
  CHECK_EQ(VictimSmapsKb(memory, "Rss"), 64 * 4);
  VictimVerify(memory, 8 * kPage, 30);
  VictimVerifyZero(memory + 8 * kPage, 56 * kPage);
  SYS(munlock(memory, 64 * kPage));
  CHECK(!VictimVmFlag(memory, "lo"), "munlock had no effect");
  VictimPass();
}
