// SPDX-License-Identifier: Apache-2.0
//
// Memory that was only read (the kernel's zero page) is zero and does not become a page of its own.
#include "victim.h"

int main(int argc, char** argv) {
  VictimInit(argc, argv);
  char* memory = VictimIsland(64 * kPage);
  VictimVerifyZero(memory, 64 * kPage);
  if (VictimSmapsKb(memory, "Anonymous") == 64 * kPage / 1024) VictimSkip("this kernel has no zero page to share");
  CHECK_EQ(VictimSmapsKb(memory, "Anonymous"), 0);
  VictimReady();
  CHECK_EQ(VictimSmapsKb(memory, "Anonymous"), 0);
  VictimVerifyZero(memory, 64 * kPage);
  VictimFill(memory, 64 * kPage, 48);
  VictimVerify(memory, 64 * kPage, 48);
  VictimPass();
}
