// SPDX-License-Identifier: Apache-2.0
//
// Shared MAP_HUGETLB memory cannot be captured: refused, and its content stays.
#include "victim.h"

int main(int argc, char** argv) {
  VictimInit(argc, argv);
  const size_t huge = 2 << 20;
  char* memory = mmap(NULL, huge, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_HUGETLB, -1, 0);
  if (memory == MAP_FAILED) VictimSkip("no huge page to be had: %s", strerror(errno));
  VictimFill(memory, huge, 38);
  VictimReady();
  VictimVerify(memory, huge, 38);
  VictimPass();
}
