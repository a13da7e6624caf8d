// SPDX-License-Identifier: Apache-2.0
//
// A pending SIGTRAP would be taken for one of the tracer's own: refused, and it stays pending.
#include "victim.h"

int main(int argc, char** argv) {
  VictimInit(argc, argv);
  sigset_t trap;
  sigemptyset(&trap);
  sigaddset(&trap, SIGTRAP);
  SYS(sigprocmask(SIG_BLOCK, &trap, NULL));
  SYS(sigqueue(getpid(), SIGTRAP, (union sigval){.sival_int = 77}));
  VictimReady();
  siginfo_t info;
  CHECK_EQ(SYS(sigtimedwait(&trap, &info, &(struct timespec){0, 0})), SIGTRAP);
  CHECK_EQ(info.si_value.sival_int, 77);
  VictimPass();
}
