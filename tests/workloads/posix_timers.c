// SPDX-License-Identifier: Apache-2.0
//
// POSIX timers: ids with gaps, time left, interval, and that each still delivers its value.
#include "timers.inc"
#include "victim.h"

static long Create(int notify, int number, int value, int* id) {
  struct sigevent event = {.sigev_notify = notify, .sigev_signo = number, .sigev_value.sival_int = value};
  if (notify == SIGEV_THREAD_ID) event._sigev_un._tid = VictimGettid();
  return syscall(SYS_timer_create, CLOCK_MONOTONIC, &event, id);
}

static int64_t Left(int id, int64_t interval) {
  struct itimerspec now;
  SYS(syscall(SYS_timer_gettime, id, &now));
  CHECK_EQ(InNs(now.it_interval), interval);
  return InNs(now.it_value);
}

int main(int argc, char** argv) {
  VictimInit(argc, argv);
  static const int kNotify[6] = {SIGEV_SIGNAL, SIGEV_NONE,      SIGEV_NONE,
                                 SIGEV_NONE,   SIGEV_THREAD_ID, SIGEV_SIGNAL};
  int ids[6];
  sigset_t mask;
  sigemptyset(&mask);
  for (int i = 0; i < 6; i++) sigaddset(&mask, SIGRTMIN + 2 + i);
  SYS(sigprocmask(SIG_BLOCK, &mask, NULL));
  for (int i = 0; i < 6; i++) SYS(Create(kNotify[i], SIGRTMIN + 2 + i, 500 + i, &ids[i]));
  SYS(syscall(SYS_timer_delete, ids[1]));
  SYS(syscall(SYS_timer_delete, ids[3]));
  static const struct itimerspec kTimes[6] = {
      [0] = {{11, 5000}, {3600, 0}}, [2] = {{9000, 6000}, {4000, 0}}, [4] = {{9500, 7000}, {3000, 0}}};
  static const struct itimerspec none = {{0, 0}, {0, 0}};
  struct TimeLeft before[6];
  for (int i = 0; i < 6; i += 2) {
    SYS(syscall(SYS_timer_settime, ids[i], 0, &kTimes[i], NULL));
    before[i].clock = CLOCK_MONOTONIC;
    before[i].now = VictimNow(CLOCK_MONOTONIC);
    before[i].left = Left(ids[i], InNs(kTimes[i].it_interval));
  }
  VictimReady();
  for (int i = 0; i < 6; i += 2) CheckLeft("timer", i, before[i], Left(ids[i], InNs(kTimes[i].it_interval)));
  CHECK_EQ(Left(ids[5], 0), 0);
  struct itimerspec now;
  CHECK_ERRNO(syscall(SYS_timer_gettime, ids[1], &now), EINVAL);
  CHECK_ERRNO(syscall(SYS_timer_gettime, ids[3], &now), EINVAL);
  for (int i = 0; i < 6; i++) {
    if (kNotify[i] == SIGEV_NONE) continue;
    const struct itimerspec soon = {{0, 0}, {0, 1000000}};
    siginfo_t info;
    SYS(syscall(SYS_timer_settime, ids[i], 0, &soon, NULL));
    while (sigwaitinfo(&mask, &info) < 0) CHECK_EQ(errno, EINTR);
    CHECK_EQ(info.si_signo, SIGRTMIN + 2 + i);
    CHECK_EQ(info.si_code, SI_TIMER);
    CHECK_EQ(info.si_value.sival_int, 500 + i);
    CHECK_EQ(info.si_timerid, ids[i]);
    SYS(syscall(SYS_timer_settime, ids[i], 0, &none, NULL));
  }
  int next;
  SYS(Create(SIGEV_NONE, 0, 0, &next));
  for (int i = 0; i < 6; i++) CHECK(i == 1 || i == 3 || next != ids[i], "id %d is given twice", next);
  VictimPass();
}
