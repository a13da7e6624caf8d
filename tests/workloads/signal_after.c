// SPDX-License-Identifier: Apache-2.0
//
// Signals sent afterwards run the handlers installed before, with the interrupted call restarted or not as
// asked.
#include "victim.h"

static atomic_int handled;
static void OnSignal(int number) { handled += number; }
static int ends[2];

static void* Restarting(void* unused) {
  char byte;
  CHECK_EQ(SYS(read(ends[0], &byte, 1)), 1);
  return unused;
}

static void* Failing(void* unused) {
  char byte;
  CHECK_ERRNO(read(ends[0], &byte, 1), EINTR);
  return unused;
}

int main(int argc, char** argv) {
  VictimInit(argc, argv);
  struct VictimThread restarting, failing;
  SYS(pipe(ends));
  SYS(sigaction(SIGUSR1, &(struct sigaction){.sa_handler = OnSignal, .sa_flags = SA_RESTART}, NULL));
  SYS(sigaction(SIGUSR2, &(struct sigaction){.sa_handler = OnSignal}, NULL));
  VictimSpawn(&restarting, Restarting, NULL);
  VictimSpawn(&failing, Failing, NULL);
  VictimAwaitBlocked(restarting.tid, SYS_read);
  VictimAwaitBlocked(failing.tid, SYS_read);
  VictimReady();
  VictimAwaitBlocked(restarting.tid, SYS_read);
  VictimAwaitBlocked(failing.tid, SYS_read);
  PTHREAD(pthread_kill(restarting.handle, SIGUSR1));
  PTHREAD(pthread_kill(failing.handle, SIGUSR2));
  VictimJoin(&failing);
  SYS(write(ends[1], "x", 1));
  VictimJoin(&restarting);
  CHECK_EQ(handled, SIGUSR1 + SIGUSR2);
  VictimPass();
}
