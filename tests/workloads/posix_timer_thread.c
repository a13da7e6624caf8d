// SPDX-License-Identifier: Apache-2.0
//
// A timer with SIGEV_THREAD (libc's helper thread) still calls its function.
#include "victim.h"

static atomic_int called;
static void Notify(union sigval value) { called += value.sival_int; }

int main(int argc, char** argv) {
  VictimInit(argc, argv);
  struct sigevent event = {.sigev_notify = SIGEV_THREAD, .sigev_value.sival_int = 1};
  event.sigev_notify_function = Notify;
  timer_t timer;
  SYS(timer_create(CLOCK_MONOTONIC, &event, &timer));
  const struct itimerspec time = {{0, 20000000}, {0, 20000000}};
  SYS(timer_settime(timer, 0, &time, NULL));
  while (called < 2) VictimSleepMs(1);
  VictimReady();
  const int before = called;
  while (called < before + 3) VictimSleepMs(1);
  SYS(timer_delete(timer));
  VictimPass();
}
