// SPDX-License-Identifier: Apache-2.0
//
// mlock2(MLOCK_ONFAULT): locked, but pages that were never touched are still not in memory.
#include "victim.h"

int main(int argc, char** argv) {
  VictimInit(argc, argv);
  char* memory = VictimIsland(64 * kPage);
  SYS(mlock2(memory, 64 * kPage, MLOCK_ONFAULT));
  VictimFill(memory, 8 * kPage, 31);
  CHECK_EQ(VictimSmapsKb(memory, "Rss"), 8 * 4);
  VictimReady();
  CHECK(VictimVmFlag(memory, "lo"), "VM_LOCKED is gone");
  CHECK_EQ(VictimSmapsKb(memory, "Rss"), 8 * 4);
  VictimVerify(memory, 8 * kPage, 31);
  memory[20 * kPage] = 1;
  CHECK_EQ(VictimSmapsKb(memory, "Rss"), 9 * 4);
  VictimPass();
}
