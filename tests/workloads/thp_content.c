// SPDX-License-Identifier: Apache-2.0
//
// Content of transparent huge pages, partly split by mprotect.
#include "victim.h"

int main(int argc, char** argv) {
  VictimInit(argc, argv);
  const size_t huge = 2 << 20;
  char* room = VictimAnon(6 * huge);
  char* memory = (char*)(((uintptr_t)room + huge - 1) & ~(huge - 1));
  SYS(madvise(memory, 4 * huge, MADV_HUGEPAGE));
  VictimFill(memory, 4 * huge, 36);
  if (VictimSmapsKb(memory, "AnonHugePages") == 0) VictimSkip("no transparent huge page was given");
  SYS(mprotect(memory + huge + 5 * kPage, kPage, PROT_READ));
  VictimReady();
  VictimVerify(memory, 4 * huge, 36);
  CHECK(VictimVmFlag(memory, "hg"), "MADV_HUGEPAGE is gone");
  // The last one alone in a mapping of its own; the first ones may have been split for the copy.
  CHECK(VictimSmapsKb(memory + 3 * huge, "AnonHugePages") > 0, "no huge page is below it any more");
  memory[3 * huge + 7] ^= 1;
  memory[3 * huge + 7] ^= 1;
  VictimVerify(memory, 4 * huge, 36);
  VictimPass();
}
