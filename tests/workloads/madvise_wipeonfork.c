// SPDX-License-Identifier: Apache-2.0
//
// MADV_WIPEONFORK marks secrets that no copy may hold: kept by the process itself, zero in a restored one.
#include "victim.h"

int main(int argc, char** argv) {
  VictimInit(argc, argv);
  char* secret = VictimAnon(4 * kPage);
  VictimFill(secret, 4 * kPage, 34);
  SYS(madvise(secret, 4 * kPage, MADV_WIPEONFORK));
  VictimReady();
  CHECK(VictimVmFlag(secret, "wf"), "VM_WIPEONFORK is gone");
  if (VictimRestored()) {
    VictimVerifyZero(secret, 4 * kPage);
  } else {
    VictimVerify(secret, 4 * kPage, 34);
  }
  secret[0] = 1;
  VictimPass();
}
