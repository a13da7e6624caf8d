// SPDX-License-Identifier: Apache-2.0
//
// Many small neighbours with different protection stay what they are.
#include "victim.h"

int main(int argc, char** argv) {
  VictimInit(argc, argv);
  enum { kCount = 1000 };
  char* base = VictimAnon(kCount * kPage);
  for (int i = 0; i < kCount; i++) {
    VictimFill(base + i * kPage, kPage, (uint64_t)i);
    SYS(mprotect(base + i * kPage, kPage, i % 2 ? PROT_READ : PROT_READ | PROT_WRITE));
  }
  VictimReady();
  for (int i = 0; i < kCount; i++) {
    VictimVerify(base + i * kPage, kPage, (uint64_t)i);
    if (i % 50 < 2) {
      const struct VictimVma vma = VictimFindVma(base + i * kPage);
      CHECK_EQ(vma.end - vma.start, kPage);
      CHECK_STR(vma.perms, i % 2 ? "r--p" : "rw-p");
    }
  }
  VictimPass();
}
