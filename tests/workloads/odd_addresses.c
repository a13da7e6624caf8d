// SPDX-License-Identifier: Apache-2.0
//
// Mappings at the lowest and at the highest addresses a program can have.
#include "victim.h"

int main(int argc, char** argv) {
  VictimInit(argc, argv);
  static const uintptr_t kAddresses[] = {0x10000, 0x7fffff7ff000, 0x7fffffffe000, 0x100000000,
                                         0x600000000000};
  enum { kCount = 5 };
  for (int i = 0; i < kCount; i++) {
    char* at = mmap((void*)kAddresses[i], kPage, PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
    // Randomization may have put something else there; then this one is not tested in this run.
    if (at == (char*)kAddresses[i]) VictimFill(at, kPage, (uint64_t)i);
    if (at != (char*)kAddresses[i]) CHECK_EQ(errno, EEXIST);
    if (i == 0) CHECK(at == (char*)kAddresses[0], "mmap at 0x10000: %s", strerror(errno));
  }
  bool mapped[kCount];
  for (int i = 0; i < kCount; i++) {
    const struct VictimVma vma = VictimFindVma((void*)kAddresses[i]);
    mapped[i] = vma.start == kAddresses[i] && vma.end == kAddresses[i] + kPage;
  }
  VictimReady();
  for (int i = 0; i < kCount; i++) {
    if (mapped[i]) VictimVerify((void*)kAddresses[i], kPage, (uint64_t)i);
  }
  VictimPass();
}
