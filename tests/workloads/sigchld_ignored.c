// SPDX-License-Identifier: Apache-2.0
//
// SIGCHLD ignored: children made afterwards are reaped by the kernel.
#include <sys/wait.h>

#include "victim.h"

int main(int argc, char** argv) {
  VictimInit(argc, argv);
  SYS(sigaction(SIGCHLD, &(struct sigaction){.sa_handler = SIG_IGN}, NULL));
  VictimReady();
  for (int i = 0; i < 3; i++) {
    const pid_t child = (pid_t)SYS(fork());
    if (child == 0) _exit(0);
    CHECK_ERRNO(waitpid(child, NULL, 0), ECHILD);
  }
  VictimPass();
}
