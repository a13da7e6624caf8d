// SPDX-License-Identifier: Apache-2.0
//
// siginfo of pending signals: sender, code and value of kill and of sigqueue with made-up fields.
#include "victim.h"

static siginfo_t Take(int number) {
  siginfo_t info;
  sigset_t one;
  sigemptyset(&one);
  sigaddset(&one, number);
  CHECK_EQ(SYS(sigtimedwait(&one, &info, &(struct timespec){0, 0})), number);
  return info;
}

int main(int argc, char** argv) {
  VictimInit(argc, argv);
  sigset_t mask;
  sigfillset(&mask);
  SYS(sigprocmask(SIG_SETMASK, &mask, NULL));
  SYS(kill(getpid(), SIGTERM));
  siginfo_t made = {.si_code = -60};
  made.si_pid = 4242;
  made.si_uid = 77;
  made.si_value.sival_ptr = (void*)0x123456789abcdef0;
  SYS(syscall(SYS_rt_sigqueueinfo, getpid(), SIGRTMAX, &made));
  VictimReady();
  siginfo_t got = Take(SIGTERM);
  CHECK_EQ(got.si_code, SI_USER);
  CHECK_EQ(got.si_pid, getpid());
  CHECK_EQ(got.si_uid, getuid());
  got = Take(SIGRTMAX);
  CHECK_EQ(got.si_code, -60);
  CHECK_EQ(got.si_pid, 4242);
  CHECK_EQ(got.si_uid, 77);
  CHECK_EQ((intptr_t)got.si_value.sival_ptr, 0x123456789abcdef0);
  VictimPass();
}
