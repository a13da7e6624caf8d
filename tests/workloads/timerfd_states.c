// SPDX-License-Identifier: Apache-2.0
//
// timerfds: armed with time left and interval, disarmed, and one that expired without being read.
#include <sys/timerfd.h>

#include "victim.h"

int main(int argc, char** argv) {
  VictimInit(argc, argv);
  const int armed = (int)SYS(timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK));
  const int idle = (int)SYS(timerfd_create(CLOCK_REALTIME, TFD_NONBLOCK | TFD_CLOEXEC));
  const int expired = (int)SYS(timerfd_create(CLOCK_BOOTTIME, TFD_NONBLOCK));
  const int repeating = (int)SYS(timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK));
  SYS(timerfd_settime(armed, 0, &(struct itimerspec){{3, 14}, {3600, 0}}, NULL));
  SYS(timerfd_settime(expired, 0, &(struct itimerspec){{0, 0}, {0, 1000}}, NULL));
  SYS(timerfd_settime(repeating, 0, &(struct itimerspec){{3600, 0}, {0, 1000}}, NULL));
  VictimSleepMs(20);
  VictimReady();
  struct itimerspec now;
  uint64_t ticks = 0;
  SYS(timerfd_gettime(armed, &now));
  CHECK_EQ(now.it_interval.tv_sec, 3);
  CHECK_EQ(now.it_interval.tv_nsec, 14);
  CHECK(now.it_value.tv_sec > 0 && now.it_value.tv_sec <= 3600, "%ld s left", now.it_value.tv_sec);
  CHECK_ERRNO(read(armed, &ticks, 8), EAGAIN);
  SYS(timerfd_gettime(idle, &now));
  CHECK_EQ(now.it_value.tv_sec + now.it_value.tv_nsec, 0);
  CHECK_ERRNO(read(idle, &ticks, 8), EAGAIN);
  CHECK_EQ(fcntl(idle, F_GETFD), FD_CLOEXEC);
  CHECK_EQ(SYS(read(expired, &ticks, 8)), 8);
  CHECK_EQ(ticks, 1);
  CHECK_EQ(SYS(read(repeating, &ticks, 8)), 8);
  CHECK_EQ(ticks, 1);
  SYS(timerfd_gettime(repeating, &now));
  CHECK_EQ(now.it_interval.tv_sec, 3600);
  CHECK(now.it_value.tv_sec > 0, "the repeating timer is not armed");
  VictimPass();
}
