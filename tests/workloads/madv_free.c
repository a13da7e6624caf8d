// SPDX-License-Identifier: Apache-2.0
//
// Pages given back lazily (MADV_FREE) hold the old bytes or zero, never anything else.
#include "victim.h"

int main(int argc, char** argv) {
  VictimInit(argc, argv);
  enum { kPages = 64 };
  unsigned char* memory = VictimAnon(kPages * kPage);
  memset(memory, 0xa5, kPages * kPage);
  SYS(madvise(memory, kPages * kPage, MADV_FREE));
  memory[10 * kPage] = 0x77;  // in use again: must be kept
  VictimReady();
  CHECK_EQ(memory[10 * kPage], 0x77);
  for (int page = 0; page < kPages; page++) {
    const unsigned char first = memory[page * kPage + 1];
    CHECK(first == 0 || first == 0xa5, "page %d holds %#x", page, first);
    for (int i = 1; i < kPage; i++) CHECK_EQ(memory[page * kPage + i], first);
  }
  VictimPass();
}
