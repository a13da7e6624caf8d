// SPDX-License-Identifier: Apache-2.0
//
// A thread in sigsuspend: its temporary mask lets one signal through, then the old mask is back.
#include "victim.h"

static atomic_int first, second;
static void OnFirst(int number) { first += number == SIGUSR1; }
static void OnSecond(int number) { second += number == SIGUSR2; }

static void* Suspended(void* unused) {
  sigset_t blocked, temporary, now;
  sigemptyset(&blocked);
  sigaddset(&blocked, SIGUSR1);
  PTHREAD(pthread_sigmask(SIG_BLOCK, &blocked, NULL));
  sigemptyset(&temporary);
  sigaddset(&temporary, SIGUSR2);
  CHECK_ERRNO(sigsuspend(&temporary), EINTR);
  PTHREAD(pthread_sigmask(SIG_BLOCK, NULL, &now));
  CHECK(sigismember(&now, SIGUSR1), "the old mask is lost");
  CHECK(!sigismember(&now, SIGUSR2), "the temporary mask stayed");
  return unused;
}

int main(int argc, char** argv) {
  VictimInit(argc, argv);
  struct VictimThread suspended;
  SYS(sigaction(SIGUSR1, &(struct sigaction){.sa_handler = OnFirst}, NULL));
  SYS(sigaction(SIGUSR2, &(struct sigaction){.sa_handler = OnSecond}, NULL));
  VictimSpawn(&suspended, Suspended, NULL);
  VictimAwaitBlocked(suspended.tid, SYS_rt_sigsuspend);
  VictimReady();
  VictimAwaitBlocked(suspended.tid, SYS_rt_sigsuspend);  // whoever stopped us made it start again
  PTHREAD(pthread_kill(suspended.handle, SIGUSR2));  // masked while suspended
  VictimSleepMs(20);
  CHECK_EQ(second, 0);
  PTHREAD(pthread_kill(suspended.handle, SIGUSR1));
  VictimJoin(&suspended);
  CHECK_EQ(first, 1);
  CHECK_EQ(second, 1);
  VictimPass();
}
