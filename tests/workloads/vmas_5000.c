// SPDX-License-Identifier: Apache-2.0
//
// Five thousand mappings, three kinds of protection, every seventh with content.
#include "victim.h"

enum { kCount = 5000 };
static const int kProts[] = {PROT_READ | PROT_WRITE, PROT_READ, PROT_NONE};

int main(int argc, char** argv) {
  VictimInit(argc, argv);
  char* base = VictimAnon(kCount * kPage);
  for (int i = 0; i < kCount; i++) {
    if (i % 7 == 0) VictimFill(base + i * kPage, kPage, (uint64_t)i);
    if (i % 3 != 0) SYS(mprotect(base + i * kPage, kPage, kProts[i % 3]));
  }
  VictimReady();
  for (int i = 0; i < kCount; i++) {
    if (i % 498 == 2) CHECK_STR(VictimFindVma(base + i * kPage).perms, "---p");
    SYS(mprotect(base + i * kPage, kPage, PROT_READ));
    if (i % 7 == 0) VictimVerify(base + i * kPage, kPage, (uint64_t)i);
  }
  VictimPass();
}
