// SPDX-License-Identifier: Apache-2.0
//
// PR_SET_THP_DISABLE: no transparent huge pages for this process.
#include <sys/prctl.h>

#include "victim.h"

int main(int argc, char** argv) {
  VictimInit(argc, argv);
  SYS(prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0));
  VictimReady();
  CHECK_EQ(prctl(PR_GET_THP_DISABLE, 0, 0, 0, 0), 1);
  VictimPass();
}
