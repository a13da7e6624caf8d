// SPDX-License-Identifier: Apache-2.0
//
// A repeating timerfd that nobody reads for a hundred expiries has them all.
#include <sys/timerfd.h>

#include "victim.h"

int main(int argc, char** argv) {
  VictimInit(argc, argv);
  const int timer = (int)SYS(timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK));
  SYS(timerfd_settime(timer, 0, &(struct itimerspec){{0, 10000000}, {0, 10000000}}, NULL));
  VictimSleepMs(1000);
  VictimReady();
  uint64_t ticks = 0;
  CHECK_EQ(SYS(read(timer, &ticks, 8)), 8);
  CHECK(ticks >= 100, "%llu expiries", (unsigned long long)ticks);
  VictimSleepMs(50);
  CHECK_EQ(SYS(read(timer, &ticks, 8)), 8);
  CHECK(ticks >= 1, "it repeats no more");
  VictimPass();
}
