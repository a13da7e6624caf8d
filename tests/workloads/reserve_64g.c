// SPDX-License-Identifier: Apache-2.0
//
// A 64 GiB reservation with a few pages in use costs nothing but those pages.
#include "victim.h"

int main(int argc, char** argv) {
  VictimInit(argc, argv);
  const size_t size = 64ul << 30;
  char* base = VictimMap(NULL, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  for (size_t i = 0; i < 8; i++) {
    char* page = base + (i * 8 << 30) + 12345 * kPage;
    SYS(mprotect(page, kPage, PROT_READ | PROT_WRITE));
    VictimFill(page, kPage, i);
  }
  VictimReady();
  for (size_t i = 0; i < 8; i++) {
    char* page = base + (i * 8 << 30) + 12345 * kPage;
    VictimVerify(page, kPage, i);
    CHECK_STR(VictimFindVma(page).perms, "rw-p");
    CHECK_STR(VictimFindVma(page + kPage).perms, "---p");
    CHECK(VictimVmFlag(page + kPage, "nr"), "reservation lost MAP_NORESERVE");
  }
  VictimPass();
}
