// SPDX-License-Identifier: Apache-2.0
//
// Memory that was moved and grown by mremap keeps content and can be moved again.
#include "victim.h"

int main(int argc, char** argv) {
  VictimInit(argc, argv);
  char* old = VictimAnon(8 * kPage);
  VictimFill(old, 8 * kPage, 51);
  char* target = VictimAnon(64 * kPage);
  char* moved = mremap(old + 2 * kPage, 4 * kPage, 32 * kPage, MREMAP_MAYMOVE | MREMAP_FIXED, target);
  CHECK(moved == target, "mremap: %s", strerror(errno));
  char copy[kPage];
  memcpy(copy, moved + 3 * kPage, kPage);
  VictimReady();
  CHECK(memcmp(copy, moved + 3 * kPage, kPage) == 0, "moved page changed");
  VictimVerifyZero(moved + 4 * kPage, 28 * kPage);
  char* again = mremap(moved, 32 * kPage, 4 * kPage, 0);
  CHECK(again == moved, "mremap to shrink: %s", strerror(errno));
  CHECK(memcmp(copy, again + 3 * kPage, kPage) == 0, "shrunk mapping changed");
  VictimPass();
}
