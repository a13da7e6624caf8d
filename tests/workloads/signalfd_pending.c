// SPDX-License-Identifier: Apache-2.0
//
// A signalfd with signals waiting: set of signals, content and order.
#include <sys/signalfd.h>

#include "victim.h"

int main(int argc, char** argv) {
  VictimInit(argc, argv);
  sigset_t mask;
  sigemptyset(&mask);
  sigaddset(&mask, SIGUSR1);
  sigaddset(&mask, SIGRTMIN + 4);
  SYS(sigprocmask(SIG_BLOCK, &mask, NULL));
  const int fd = (int)SYS(signalfd(-1, &mask, SFD_NONBLOCK | SFD_CLOEXEC));
  SYS(kill(getpid(), SIGUSR1));
  for (int i = 0; i < 2; i++) SYS(sigqueue(getpid(), SIGRTMIN + 4, (union sigval){.sival_int = 40 + i}));
  VictimReady();
  struct signalfd_siginfo info;
  for (int i = 0; i < 3; i++) {
    CHECK_EQ(SYS(read(fd, &info, sizeof(info))), sizeof(info));
    CHECK_EQ(info.ssi_signo, i == 0 ? SIGUSR1 : SIGRTMIN + 4);
    if (i > 0) CHECK_EQ(info.ssi_int, 40 + i - 1);
  }
  CHECK_ERRNO(read(fd, &info, sizeof(info)), EAGAIN);
  SYS(kill(getpid(), SIGUSR1));
  CHECK_EQ(SYS(read(fd, &info, sizeof(info))), sizeof(info));
  VictimPass();
}
