// SPDX-License-Identifier: Apache-2.0
//
// A POSIX timer of the process's CPU-time clock: what is left, and that it fires when CPU time is used.
#include "victim.h"

static atomic_int fired;
static void OnTimer(int number) { fired += number != 0; }

int main(int argc, char** argv) {
  VictimInit(argc, argv);
  SYS(sigaction(SIGRTMIN, &(struct sigaction){.sa_handler = OnTimer, .sa_flags = SA_RESTART}, NULL));
  struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGRTMIN};
  timer_t timer, far;
  SYS(timer_create(CLOCK_PROCESS_CPUTIME_ID, &event, &timer));
  event.sigev_notify = SIGEV_NONE;
  SYS(timer_create(CLOCK_PROCESS_CPUTIME_ID, &event, &far));
  SYS(timer_settime(far, 0, &(struct itimerspec){{0, 0}, {3600, 0}}, NULL));
  SYS(timer_settime(timer, 0, &(struct itimerspec){{0, 50000000}, {0, 50000000}}, NULL));
  VictimReady();
  struct itimerspec now;
  SYS(timer_gettime(far, &now));
  CHECK(now.it_value.tv_sec > 3500 && now.it_value.tv_sec <= 3600, "%ld s left", now.it_value.tv_sec);
  const int before = fired;
  while (fired < before + 2) {
  }
  VictimPass();
}
