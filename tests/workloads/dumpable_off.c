// SPDX-License-Identifier: Apache-2.0
//
// A process that made itself not dumpable (PR_SET_DUMPABLE 0) stays so.
#include <sys/prctl.h>

#include "victim.h"

int main(int argc, char** argv) {
  VictimInit(argc, argv);
  SYS(prctl(PR_SET_DUMPABLE, 0));
  VictimReady();
  CHECK_EQ(prctl(PR_GET_DUMPABLE), 0);
  SYS(prctl(PR_SET_DUMPABLE, 1));
  CHECK_EQ(prctl(PR_GET_DUMPABLE), 1);
  VictimPass();
}
