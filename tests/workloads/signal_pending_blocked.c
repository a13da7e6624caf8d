// SPDX-License-Identifier: Apache-2.0
//
// A blocked standard signal that was pending is delivered, once, when it is unblocked.
#include "victim.h"

static volatile sig_atomic_t seen;
static void OnSignal(int number) { seen += number == SIGUSR1 ? 1 : 100; }

int main(int argc, char** argv) {
  VictimInit(argc, argv);
  SYS(sigaction(SIGUSR1, &(struct sigaction){.sa_handler = OnSignal}, NULL));
  sigset_t mask, pending;
  sigemptyset(&mask);
  sigaddset(&mask, SIGUSR1);
  SYS(sigprocmask(SIG_BLOCK, &mask, NULL));
  SYS(kill(getpid(), SIGUSR1));
  SYS(kill(getpid(), SIGUSR1));  // merged with the first
  VictimReady();
  CHECK_EQ(seen, 0);
  SYS(sigpending(&pending));
  CHECK(sigismember(&pending, SIGUSR1), "SIGUSR1 is not pending any more");
  SYS(sigprocmask(SIG_UNBLOCK, &mask, NULL));
  CHECK_EQ(seen, 1);
  VictimPass();
}
