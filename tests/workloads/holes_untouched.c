// SPDX-License-Identifier: Apache-2.0
//
// Pages that were never touched are still not there.
#include "victim.h"

int main(int argc, char** argv) {
  VictimInit(argc, argv);
  enum { kPages = 4096 };
  char* memory = VictimAnon((size_t)kPages * kPage);
  SYS(madvise(memory, (size_t)kPages * kPage, MADV_NOHUGEPAGE));
  for (int i = 0; i < kPages; i += 100) VictimFill(memory + i * kPage, kPage, (uint64_t)i);
  VictimReady();
  const uint64_t kThere = 3ull << 62;  // present or swapped
  for (int i = 0; i < kPages; i++) {
    const bool there = (VictimPagemap(memory + i * kPage) & kThere) != 0;
    CHECK(i % 100 == 0 || !there, "page %d was touched", i);
  }
  for (int i = 0; i < kPages; i += 100) VictimVerify(memory + i * kPage, kPage, (uint64_t)i);
  VictimPass();
}
