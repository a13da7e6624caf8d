// SPDX-License-Identifier: Apache-2.0
//
// Every lasting madvise(2) advice is still on its mapping, and on no other.
#include "victim.h"

static const struct {
  int advice;
  const char* flag;
} kAdvice[] = {{MADV_DONTFORK, "dc"}, {MADV_WIPEONFORK, "wf"}, {MADV_DONTDUMP, "dd"},
               {MADV_HUGEPAGE, "hg"}, {MADV_NOHUGEPAGE, "nh"}, {MADV_MERGEABLE, "mg"},
               {MADV_RANDOM, "rr"},   {MADV_SEQUENTIAL, "sr"}};
enum { kCount = sizeof(kAdvice) / sizeof(kAdvice[0]) };

static void CheckFlags(char* base) {
  for (int i = 0; i < kCount; i++) {
    for (int j = 0; j < kCount; j++) {
      CHECK(VictimVmFlag(base + 2 * i * kPage, kAdvice[j].flag) == (i == j), "flag %s on mapping %d is wrong",
            kAdvice[j].flag, i);
    }
    CHECK(!VictimVmFlag(base + (2 * i + 1) * kPage, kAdvice[i].flag), "flag %s leaked", kAdvice[i].flag);
  }
}

int main(int argc, char** argv) {
  VictimInit(argc, argv);
  char* base = VictimAnon(2 * kCount * kPage);
  VictimFill(base, kPage, 33);
  for (int i = 0; i < kCount; i++) SYS(madvise(base + 2 * i * kPage, kPage, kAdvice[i].advice));
  CheckFlags(base);
  VictimReady();
  CheckFlags(base);
  VictimVerify(base, kPage, 33);
  VictimPass();
}
