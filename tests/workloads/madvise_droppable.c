// SPDX-License-Identifier: Apache-2.0
//
// MAP_DROPPABLE (Linux 6.11) memory may be emptied by the kernel at any time, page by page: zero in a
// restored process, and droppable still.
#include "victim.h"

#ifndef MAP_DROPPABLE
#define MAP_DROPPABLE 0x08
#endif

enum { kPages = 4 };

int main(int argc, char** argv) {
  VictimInit(argc, argv);
  char* cache = mmap(NULL, kPages * kPage, PROT_READ | PROT_WRITE, MAP_DROPPABLE | MAP_ANONYMOUS, -1, 0);
  if (cache == MAP_FAILED) VictimSkip("no MAP_DROPPABLE: %s", strerror(errno));
  for (int i = 0; i < kPages; i++) VictimFill(cache + i * kPage, kPage, 36 + (uint64_t)i);
  VictimReady();
  CHECK(VictimVmFlag(cache, "dp"), "VM_DROPPABLE is gone");
  for (int i = 0; i < kPages; i++) {
    const char* page = cache + i * kPage;
    uint64_t first;
    memcpy(&first, page, sizeof(first));
    // Where memory is short the kernel may have dropped it, but not a part of it.
    if (VictimRestored() || first == 0) {
      VictimVerifyZero(page, kPage);
    } else {
      VictimVerify(page, kPage, 36 + (uint64_t)i);
    }
  }
  cache[0] = 1;
  VictimPass();
}
