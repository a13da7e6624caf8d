// SPDX-License-Identifier: Apache-2.0
//
// A child that has ended but was not waited for is a child too: refused, and its status can still be had.
#include <sys/wait.h>

#include "victim.h"

int main(int argc, char** argv) {
  VictimInit(argc, argv);
  const pid_t child = (pid_t)SYS(fork());
  if (child == 0) _exit(35);
  siginfo_t info;
  SYS(waitid(P_PID, (id_t)child, &info, WEXITED | WNOWAIT));
  VictimReady();
  int status = 0;
  CHECK_EQ(SYS(waitpid(child, &status, 0)), child);
  CHECK_EQ(WEXITSTATUS(status), 35);
  VictimPass();
}
