// SPDX-License-Identifier: Apache-2.0
//
// MAP_HUGETLB memory, private and shared.
#include "victim.h"

int main(int argc, char** argv) {
  VictimInit(argc, argv);
  const size_t huge = 2 << 20;
  const int flags = MAP_ANONYMOUS | MAP_HUGETLB;
  char* private = mmap(NULL, huge, PROT_READ | PROT_WRITE, MAP_PRIVATE | flags, -1, 0);
  if (private == MAP_FAILED) VictimSkip("no huge page to be had: %s", strerror(errno));
  VictimFill(private, huge, 37);
  char* shared = mmap(NULL, huge, PROT_READ | PROT_WRITE, MAP_SHARED | flags, -1, 0);
  if (shared == MAP_FAILED) VictimSkip("no second huge page to be had: %s", strerror(errno));
  VictimFill(shared, huge, 38);
  VictimReady();
  VictimVerify(private, huge, 37);
  VictimVerify(shared, huge, 38);
  CHECK(VictimVmFlag(private, "ht"), "private mapping is not hugetlb any more");
  CHECK(VictimVmFlag(shared, "ht"), "shared mapping is not hugetlb any more");
  VictimPass();
}
