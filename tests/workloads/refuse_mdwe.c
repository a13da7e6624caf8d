// SPDX-License-Identifier: Apache-2.0
//
// A process that has forbidden itself memory that is written and executed (PR_SET_MDWE).
#include <sys/mman.h>
#include <sys/prctl.h>

#include "victim.h"

enum { kSetMdwe = 65, kMdweRefuseExecGain = 1 };  // Linux 6.3; Debian 12's headers are older

int main(int argc, char** argv) {
  VictimInit(argc, argv);
  if (prctl(kSetMdwe, kMdweRefuseExecGain, 0, 0, 0) < 0) VictimSkip("PR_SET_MDWE: %s", strerror(errno));
  VictimReady();
  CHECK(mmap(NULL, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) == MAP_FAILED, "it may");
  VictimPass();
}
