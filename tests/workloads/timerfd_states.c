// SPDX-License-Identifier: Apache-2.0
//
// timerfds: armed with time left and interval, disarmed, and one that expired without being read.
#include <sys/timerfd.h>

#include "timers.inc"
#include "victim.h"

static int64_t Left(int fd, int64_t interval) {
  struct itimerspec now;
  SYS(timerfd_gettime(fd, &now));
  CHECK_EQ(InNs(now.it_interval), interval);
  return InNs(now.it_value);
}

static const struct {
  clockid_t clock, passes_by;
  struct itimerspec time;
} kArmed[] = {{CLOCK_MONOTONIC, CLOCK_MONOTONIC, {{3, 14}, {3600, 0}}},
              {CLOCK_MONOTONIC, CLOCK_MONOTONIC, {{9000, 15}, {3700, 0}}},
              {CLOCK_BOOTTIME, CLOCK_BOOTTIME, {{9500, 16}, {3800, 0}}},
              {CLOCK_REALTIME, CLOCK_MONOTONIC, {{0, 0}, {3900, 0}}}};
enum { kCount = sizeof(kArmed) / sizeof(kArmed[0]) };

int main(int argc, char** argv) {
  VictimInit(argc, argv);
  int armed[kCount];
  struct TimeLeft before[kCount];
  const int idle = (int)SYS(timerfd_create(CLOCK_REALTIME, TFD_NONBLOCK | TFD_CLOEXEC));
  const int expired = (int)SYS(timerfd_create(CLOCK_BOOTTIME, TFD_NONBLOCK));
  const int repeating = (int)SYS(timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK));
  SYS(timerfd_settime(expired, 0, &(struct itimerspec){{0, 0}, {0, 1000}}, NULL));
  // After its first expiry it has an hour left, at most.
  const struct TimeLeft hour = {CLOCK_MONOTONIC, VictimNow(CLOCK_MONOTONIC), 3600000000000LL};
  SYS(timerfd_settime(repeating, 0, &(struct itimerspec){{3600, 0}, {0, 1000}}, NULL));
  for (int i = 0; i < kCount; i++) {
    armed[i] = (int)SYS(timerfd_create(kArmed[i].clock, TFD_NONBLOCK));
    SYS(timerfd_settime(armed[i], 0, &kArmed[i].time, NULL));
    before[i].clock = kArmed[i].passes_by;
    before[i].now = VictimNow(kArmed[i].passes_by);
    before[i].left = Left(armed[i], InNs(kArmed[i].time.it_interval));
  }
  VictimSleepMs(20);
  VictimReady();
  uint64_t ticks = 0;
  for (int i = 0; i < kCount; i++) {
    CheckLeft("armed timer", i, before[i], Left(armed[i], InNs(kArmed[i].time.it_interval)));
    CHECK_ERRNO(read(armed[i], &ticks, 8), EAGAIN);
  }
  CHECK_EQ(Left(idle, 0), 0);
  CHECK_ERRNO(read(idle, &ticks, 8), EAGAIN);
  CHECK_EQ(fcntl(idle, F_GETFD), FD_CLOEXEC);
  CHECK_EQ(SYS(read(expired, &ticks, 8)), 8);
  CHECK_EQ(ticks, 1);
  CHECK_EQ(Left(expired, 0), 0);
  CHECK_EQ(SYS(read(repeating, &ticks, 8)), 8);
  CHECK_EQ(ticks, 1);
  CheckLeft("repeating timer", 0, hour, Left(repeating, hour.left));
  VictimPass();
}
