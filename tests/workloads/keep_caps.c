// SPDX-License-Identifier: Apache-2.0
//
// PR_SET_KEEPCAPS: capabilities survive a change of user made afterwards.
#include <sys/prctl.h>

#include "victim.h"

int main(int argc, char** argv) {
  VictimInit(argc, argv);
  VictimNeedRoot();
  VictimEnterScratch();
  SYS(prctl(PR_SET_KEEPCAPS, 1));
  VictimReady();
  CHECK_EQ(prctl(PR_GET_KEEPCAPS), 1);
  SYS(setresuid(1234, 1234, 1234));
  char permitted[32];
  VictimProcField("/proc/self/status", "CapPrm", permitted, sizeof(permitted));
  CHECK(strtoull(permitted, NULL, 16) != 0, "capabilities are lost");
  VictimPass();
}
