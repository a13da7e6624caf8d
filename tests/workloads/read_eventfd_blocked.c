// SPDX-License-Identifier: Apache-2.0
//
// Threads blocked in read(2) of an eventfd, a timerfd and a signalfd.
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <sys/timerfd.h>

#include "victim.h"

static int event, timer, signals;

static void* ReadEvent(void* unused) {
  eventfd_t value = 0;
  SYS(read(event, &value, sizeof(value)));
  CHECK_EQ(value, 5);
  return unused;
}

static void* ReadTimer(void* unused) {
  uint64_t ticks = 0;
  SYS(read(timer, &ticks, sizeof(ticks)));
  CHECK_EQ(ticks, 1);
  return unused;
}

static void* ReadSignal(void* unused) {
  struct signalfd_siginfo info;
  SYS(read(signals, &info, sizeof(info)));
  CHECK_EQ(info.ssi_signo, SIGUSR2);
  return unused;
}

int main(int argc, char** argv) {
  VictimInit(argc, argv);
  sigset_t mask;
  sigemptyset(&mask);
  sigaddset(&mask, SIGUSR2);
  PTHREAD(pthread_sigmask(SIG_BLOCK, &mask, NULL));
  event = (int)SYS(eventfd(0, 0));
  timer = (int)SYS(timerfd_create(CLOCK_MONOTONIC, 0));
  signals = (int)SYS(signalfd(-1, &mask, 0));
  struct VictimThread threads[3];
  VictimSpawn(&threads[0], ReadEvent, NULL);
  VictimSpawn(&threads[1], ReadTimer, NULL);
  VictimSpawn(&threads[2], ReadSignal, NULL);
  for (int i = 0; i < 3; i++) VictimAwaitBlocked(threads[i].tid, SYS_read);
  VictimReady();
  SYS(eventfd_write(event, 5));
  const struct itimerspec soon = {.it_value.tv_nsec = 1000000};
  SYS(timerfd_settime(timer, 0, &soon, NULL));
  SYS(kill(getpid(), SIGUSR2));
  for (int i = 0; i < 3; i++) VictimJoin(&threads[i]);
  VictimPass();
}
