// SPDX-License-Identifier: Apache-2.0
//
// A SIGCHLD handler, and children that are made and waited for afterwards.
#include <sys/wait.h>

#include "victim.h"

static atomic_int children;
static void OnChild(int number, siginfo_t* info, void* context) {
  (void)number, (void)context;
  if (info->si_code == CLD_EXITED && info->si_status == 9) children++;
}

int main(int argc, char** argv) {
  VictimInit(argc, argv);
  const int flags = SA_SIGINFO | SA_RESTART | SA_NOCLDSTOP;
  SYS(sigaction(SIGCHLD, &(struct sigaction){.sa_sigaction = OnChild, .sa_flags = flags}, NULL));
  VictimReady();
  for (int i = 1; i <= 5; i++) {
    const pid_t child = (pid_t)SYS(fork());
    if (child == 0) _exit(9);
    int status;
    CHECK_EQ(SYS(waitpid(child, &status, 0)), child);
    while (children < i) VictimSleepMs(1);
  }
  CHECK_EQ(children, 5);
  CHECK_ERRNO(waitpid(-1, NULL, WNOHANG), ECHILD);
  VictimPass();
}
