// SPDX-License-Identifier: Apache-2.0
//
// Two mappings of one shared anonymous object (mremap with old size 0) still show the same pages.
#include "victim.h"

int main(int argc, char** argv) {
  VictimInit(argc, argv);
  const size_t size = 64 * kPage;
  char* first = VictimMap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  VictimFill(first, size / 2, 6);
  char* second = mremap(first, 0, size, MREMAP_MAYMOVE);
  CHECK(second != MAP_FAILED && second != first, "mremap: %s", strerror(errno));
  VictimReady();
  VictimVerify(first, size / 2, 6);
  VictimVerify(second, size / 2, 6);
  VictimVerifyZero(second + size / 2, size / 2);
  first[100] = 42;
  CHECK_EQ(second[100], 42);
  second[size - 1] = 43;
  CHECK_EQ(first[size - 1], 43);
  CHECK_STR(VictimFindVma(second).perms, "rw-s");
  VictimPass();
}
