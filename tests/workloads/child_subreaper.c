// SPDX-License-Identifier: Apache-2.0
//
// A child subreaper inherits orphans that are made afterwards.
#include <sys/prctl.h>
#include <sys/wait.h>

#include "victim.h"

int main(int argc, char** argv) {
  VictimInit(argc, argv);
  SYS(prctl(PR_SET_CHILD_SUBREAPER, 1));
  VictimReady();
  int value = 0, status, exits = 0;
  SYS(prctl(PR_GET_CHILD_SUBREAPER, &value));
  CHECK_EQ(value, 1);
  const pid_t child = (pid_t)SYS(fork());
  if (child == 0) {
    if (SYS(fork()) == 0) {
      VictimSleepMs(30);
      _exit(21);
    }
    _exit(20);
  }
  for (int i = 0; i < 2; i++) {
    SYS(wait(&status));
    exits += WEXITSTATUS(status);
  }
  CHECK_EQ(exits, 41);
  VictimPass();
}
