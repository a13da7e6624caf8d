// SPDX-License-Identifier: Apache-2.0
//
// A MAP_GROWSDOWN mapping keeps content and still grows when the page below is touched.
#include "victim.h"

int main(int argc, char** argv) {
  VictimInit(argc, argv);
  char* room = VictimMap(NULL, 4096 * kPage, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  char* top = room + 4096 * kPage;
  SYS(munmap(room, 4096 * kPage));
  char* stack = VictimMap(top - 4 * kPage, 4 * kPage, PROT_READ | PROT_WRITE,
                          MAP_PRIVATE | MAP_ANONYMOUS | MAP_GROWSDOWN | MAP_FIXED, -1, 0);
  VictimFill(stack, 4 * kPage, 13);
  stack[-1] = 'g';
  CHECK_EQ(VictimFindVma(stack).start, (uintptr_t)(stack - kPage));
  VictimReady();
  VictimVerify(stack, 4 * kPage, 13);
  CHECK_EQ(stack[-1], 'g');
  CHECK(VictimVmFlag(stack, "gd"), "VM_GROWSDOWN is gone");
  for (volatile char* below = stack - kPage - 1; below > stack - 64 * kPage; below -= kPage) *below = 'h';
  CHECK(VictimFindVma(stack).start <= (uintptr_t)(stack - 60 * kPage), "did not grow");
  VictimPass();
}
