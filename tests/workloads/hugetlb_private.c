// SPDX-License-Identifier: Apache-2.0
//
// Private MAP_HUGETLB memory: content, and huge pages below it.
#include "victim.h"

int main(int argc, char** argv) {
  VictimInit(argc, argv);
  const size_t huge = 2 << 20;
  char* memory = mmap(NULL, huge, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB, -1, 0);
  if (memory == MAP_FAILED) VictimSkip("no huge page to be had: %s", strerror(errno));
  VictimFill(memory, huge, 37);
  VictimReady();
  VictimVerify(memory, huge, 37);
  CHECK(VictimVmFlag(memory, "ht"), "the mapping is not hugetlb any more");
  CHECK_EQ(VictimSmapsKb(memory, "KernelPageSize"), 2048);
  memory[huge - 1] ^= 1;
  memory[huge - 1] ^= 1;
  VictimVerify(memory, huge, 37);
  VictimPass();
}
