// SPDX-License-Identifier: Apache-2.0
//
// Pages that are swapped out: private ones, shared ones and those of a memfd.
#include "victim.h"

enum { kSize = 64 * kPage };

static bool AllSwapped(const char* memory) {
  for (size_t at = 0; at < kSize; at += kPage) {
    if ((VictimPagemap(memory + at) >> 62 & 1) == 0) return false;
  }
  return true;
}

int main(int argc, char** argv) {
  VictimInit(argc, argv);
  char swaps[4096];
  VictimSlurp("/proc/swaps", swaps, sizeof(swaps));
  if (strchr(swaps, '\n') == NULL || strchr(swaps, '\n')[1] == 0) VictimSkip("no swap");
  const int memfd = (int)SYS(memfd_create("swapped", MFD_CLOEXEC));
  SYS(ftruncate(memfd, kSize));
  char* const areas[3] = {VictimIsland(kSize),
                          VictimMap(NULL, kSize, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0),
                          VictimMap(NULL, kSize, PROT_READ | PROT_WRITE, MAP_SHARED, memfd, 0)};
  for (int i = 0; i < 3; i++) {
    VictimFill(areas[i], kSize, 80 + (uint64_t)i);
    SYS(madvise(areas[i], kSize, MADV_PAGEOUT));
  }
  // Private pages only: of shared ones the page table keeps nothing once they are out.
  for (int tries = 0; !AllSwapped(areas[0]); tries++) {
    if (tries == 100) VictimSkip("the kernel swaps nothing out");
    VictimSleepMs(10);
    SYS(madvise(areas[0], kSize, MADV_PAGEOUT));
  }
  VictimReady();
  for (int i = 0; i < 3; i++) VictimVerify(areas[i], kSize, 80 + (uint64_t)i);
  VictimPass();
}
