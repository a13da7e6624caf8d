// SPDX-License-Identifier: Apache-2.0
//
// MADV_GUARD_INSTALL (Linux 6.13) ranges still fault, and can be removed.
#include <setjmp.h>

#include "victim.h"

enum { kGuardInstall = 102, kGuardRemove = 103 };
static sigjmp_buf escape;
static void OnFault(int number) { siglongjmp(escape, number); }

static bool Faults(volatile char* at) {
  if (sigsetjmp(escape, 1) != 0) return true;
  *at = 1;
  return false;
}

int main(int argc, char** argv) {
  VictimInit(argc, argv);
  SYS(sigaction(SIGSEGV, &(struct sigaction){.sa_handler = OnFault}, NULL));
  char* base = VictimAnon(16 * kPage);
  VictimFill(base, 16 * kPage, 35);
  if (madvise(base + 4 * kPage, 2 * kPage, kGuardInstall) != 0) VictimSkip("no MADV_GUARD_INSTALL");
  VictimReady();
  VictimVerify(base, 4 * kPage, 35);
  CHECK(Faults(base + 4 * kPage), "first guard page does not fault");
  CHECK(Faults(base + 6 * kPage - 1), "last guard page does not fault");
  CHECK(!Faults(base + 6 * kPage), "page after the guards faults");
  SYS(madvise(base + 4 * kPage, 2 * kPage, kGuardRemove));
  VictimVerifyZero(base + 4 * kPage, 2 * kPage);
  VictimPass();
}
