// SPDX-License-Identifier: Apache-2.0
//
// A thread in pause(2) stays there until a handled signal comes; then EINTR.
#include "victim.h"

static atomic_int handled;
static void OnSignal(int number) { handled = number; }
static atomic_bool returned;

static void* Pauser(void* unused) {
  CHECK_ERRNO(syscall(SYS_pause), EINTR);
  returned = true;
  return unused;
}

int main(int argc, char** argv) {
  VictimInit(argc, argv);
  struct VictimThread pauser;
  SYS(sigaction(SIGUSR1, &(struct sigaction){.sa_handler = OnSignal, .sa_flags = SA_RESTART}, NULL));
  VictimSpawn(&pauser, Pauser, NULL);
  VictimAwaitBlocked(pauser.tid, SYS_pause);
  VictimReady();
  VictimSleepMs(20);
  CHECK(!returned, "pause returned without a signal");
  PTHREAD(pthread_kill(pauser.handle, SIGUSR1));
  VictimJoin(&pauser);
  CHECK_EQ(handled, SIGUSR1);
  VictimPass();
}
