// SPDX-License-Identifier: Apache-2.0
//
// A process with a child cannot be captured alone: refused, and the child is unharmed.
#include <sys/prctl.h>
#include <sys/wait.h>

#include "victim.h"

int main(int argc, char** argv) {
  VictimInit(argc, argv);
  int ends[2], status;
  char byte;
  SYS(pipe(ends));
  const pid_t child = (pid_t)SYS(fork());
  if (child == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    close(ends[1]);
    _exit(read(ends[0], &byte, 1) == 1 ? 33 : 34);
  }
  VictimReady();
  CHECK_EQ(SYS(waitpid(child, &status, WNOHANG)), 0);
  SYS(write(ends[1], "x", 1));
  CHECK_EQ(SYS(waitpid(child, &status, 0)), child);
  CHECK_EQ(WEXITSTATUS(status), 33);
  VictimPass();
}
