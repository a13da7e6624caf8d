// SPDX-License-Identifier: Apache-2.0
//
// The heap made by brk keeps content, name and end, and grows on from there.
#include "victim.h"

int main(int argc, char** argv) {
  VictimInit(argc, argv);
  char* first = sbrk(10 * kPage);
  CHECK(first != (void*)-1, "sbrk: %s", strerror(errno));
  VictimFill(first, 10 * kPage, 40);
  const uintptr_t end = (uintptr_t)syscall(SYS_brk, 0);
  VictimReady();
  CHECK_EQ(syscall(SYS_brk, 0), end);
  VictimVerify(first, 10 * kPage, 40);
  CHECK_STR(VictimFindVma(first).name, "[heap]");
  char* more = sbrk(100 * kPage);
  CHECK_EQ((uintptr_t)more, end);
  VictimVerifyZero(more, 100 * kPage);
  VictimFill(more, 100 * kPage, 41);
  char* allocated = malloc(50000);
  memset(allocated, 1, 50000);
  free(allocated);
  VictimVerify(first, 10 * kPage, 40);
  VictimVerify(more, 100 * kPage, 41);
  VictimPass();
}
