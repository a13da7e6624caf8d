// SPDX-License-Identifier: Apache-2.0
//
// The three interval timers: time left and interval.
#include <sys/time.h>

#include "victim.h"

static int64_t Left(int which) {
  struct itimerval now;
  SYS(getitimer(which, &now));
  CHECK_EQ(now.it_interval.tv_sec, 7 + which);
  CHECK_EQ(now.it_interval.tv_usec, 250000);
  return now.it_value.tv_sec * 1000000LL + now.it_value.tv_usec;
}

int main(int argc, char** argv) {
  VictimInit(argc, argv);
  int64_t before[3];
  for (int i = 0; i < 3; i++) {
    const struct itimerval timer = {{7 + i, 250000}, {3600, 0}};
    SYS(setitimer(i, &timer, NULL));
  }
  const int64_t start = VictimNow(CLOCK_MONOTONIC);
  for (int i = 0; i < 3; i++) before[i] = Left(i);
  VictimReady();
  for (int i = 0; i < 3; i++) {
    const int64_t left = Left(i);
    const int64_t passed = (VictimNow(CLOCK_MONOTONIC) - start) / 1000;
    // The kernel adds up to a tick to what is left of CPU-time timers.
    CHECK(left > 0 && left <= before[i] + 20000, "timer %d: %lld us left, %lld before", i, (long long)left,
          (long long)before[i]);
    CHECK(left >= before[i] - passed - 20000, "timer %d: %lld us left, %lld before, %lld us passed", i,
          (long long)left, (long long)before[i], (long long)passed);
  }
  VictimPass();
}
