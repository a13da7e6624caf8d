// SPDX-License-Identifier: Apache-2.0
//
// Threads in sigwaitinfo and in a long sigtimedwait get a signal sent afterwards.
#include "victim.h"

static void* Waiter(void* argument) {
  const int number = (int)(intptr_t)argument;
  sigset_t mask;
  siginfo_t info;
  sigemptyset(&mask);
  sigaddset(&mask, number);
  const struct timespec hour = {3600, 0};
  int got;
  // EINTR also comes from SIGCONT here (signal(7)).
  while ((got = number == SIGUSR1 ? sigwaitinfo(&mask, &info) : sigtimedwait(&mask, &info, &hour)) < 0) {
    CHECK_EQ(errno, EINTR);
  }
  CHECK_EQ(got, number);
  CHECK_EQ(info.si_value.sival_int, 1000 + number);
  CHECK_EQ(info.si_code, SI_QUEUE);
  CHECK_EQ(info.si_pid, getpid());
  return NULL;
}

int main(int argc, char** argv) {
  VictimInit(argc, argv);
  struct VictimThread info_waiter, timed_waiter;
  sigset_t mask;
  sigemptyset(&mask);
  sigaddset(&mask, SIGUSR1);
  sigaddset(&mask, SIGUSR2);
  PTHREAD(pthread_sigmask(SIG_BLOCK, &mask, NULL));
  VictimSpawn(&info_waiter, Waiter, (void*)SIGUSR1);
  VictimSpawn(&timed_waiter, Waiter, (void*)SIGUSR2);
  VictimAwaitBlocked(info_waiter.tid, SYS_rt_sigtimedwait);
  VictimAwaitBlocked(timed_waiter.tid, SYS_rt_sigtimedwait);
  VictimReady();
  SYS(sigqueue(getpid(), SIGUSR1, (union sigval){.sival_int = 1000 + SIGUSR1}));
  SYS(sigqueue(getpid(), SIGUSR2, (union sigval){.sival_int = 1000 + SIGUSR2}));
  VictimJoin(&info_waiter);
  VictimJoin(&timed_waiter);
  VictimPass();
}
