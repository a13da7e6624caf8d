// SPDX-License-Identifier: Apache-2.0
//
// POSIX timers: ids with gaps, time left, interval, and that each still delivers its value.
#include "victim.h"

static long Create(int notify, int number, int value, int* id) {
  struct sigevent event = {.sigev_notify = notify, .sigev_signo = number, .sigev_value.sival_int = value};
  if (notify == SIGEV_THREAD_ID) event._sigev_un._tid = VictimGettid();
  return syscall(SYS_timer_create, CLOCK_MONOTONIC, &event, id);
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
  const struct itimerspec long_time = {{11, 5000}, {3600, 0}}, none = {{0, 0}, {0, 0}};
  SYS(syscall(SYS_timer_settime, ids[0], 0, &long_time, NULL));
  SYS(syscall(SYS_timer_settime, ids[2], 0, &long_time, NULL));
  SYS(syscall(SYS_timer_settime, ids[4], 0, &long_time, NULL));
  VictimReady();
  struct itimerspec now;
  for (int i = 0; i < 6; i++) {
    if (i == 1 || i == 3) {
      CHECK_ERRNO(syscall(SYS_timer_gettime, ids[i], &now), EINVAL);
      continue;
    }
    SYS(syscall(SYS_timer_gettime, ids[i], &now));
    CHECK_EQ(now.it_interval.tv_sec, i == 5 ? 0 : 11);
    CHECK_EQ(now.it_interval.tv_nsec, i == 5 ? 0 : 5000);
    CHECK(i == 5 ? now.it_value.tv_sec == 0 : now.it_value.tv_sec > 0 && now.it_value.tv_sec <= 3600,
          "timer %d has %ld s left", i, now.it_value.tv_sec);
  }
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
