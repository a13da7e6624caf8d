// SPDX-License-Identifier: Apache-2.0
//
// The file creation mask and the working directory.
#include "victim.h"

int main(int argc, char** argv) {
  VictimInit(argc, argv);
  SYS(mkdir(VictimPath("work"), 0755));
  SYS(close(VictimFile("work/here", 5, 0)));
  SYS(chdir(VictimPath("work")));
  umask(0027);
  char before[512], after[512];
  CHECK(getcwd(before, sizeof(before)) != NULL, "getcwd: %s", strerror(errno));
  VictimReady();
  CHECK_EQ(umask(0), 0027);
  CHECK(getcwd(after, sizeof(after)) != NULL, "getcwd: %s", strerror(errno));
  CHECK_STR(after, before);
  SYS(access("here", F_OK));
  VictimPass();
}
