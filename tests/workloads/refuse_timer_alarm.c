// SPDX-License-Identifier: Apache-2.0
//
// A timer that can wake the machine (CLOCK_REALTIME_ALARM) belongs to the machine: refused.
#include "victim.h"

int main(int argc, char** argv) {
  VictimInit(argc, argv);
  struct sigevent event = {.sigev_notify = SIGEV_NONE};
  timer_t timer;
  if (timer_create(CLOCK_REALTIME_ALARM, &event, &timer) != 0)
    VictimSkip("timer_create: %s", strerror(errno));
  SYS(timer_settime(timer, 0, &(struct itimerspec){{0, 0}, {3600, 0}}, NULL));
  VictimReady();
  struct itimerspec now;
  SYS(timer_gettime(timer, &now));
  CHECK(now.it_value.tv_sec > 0, "the timer is not armed");
  VictimPass();
}
