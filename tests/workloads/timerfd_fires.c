// SPDX-License-Identifier: Apache-2.0
//
// A periodic timerfd goes on ticking; an absolute one fires at its time and not before.
#include <poll.h>
#include <sys/timerfd.h>

#include "victim.h"

int main(int argc, char** argv) {
  VictimInit(argc, argv);
  const int periodic = (int)SYS(timerfd_create(CLOCK_MONOTONIC, 0));
  SYS(timerfd_settime(periodic, 0, &(struct itimerspec){{0, 10000000}, {0, 10000000}}, NULL));
  int absolute[2];
  static const clockid_t kClocks[2] = {CLOCK_MONOTONIC, CLOCK_REALTIME};
  int64_t until[2];
  for (int i = 0; i < 2; i++) {
    until[i] = VictimNow(kClocks[i]) + 1500000000LL;
    const struct itimerspec time = {{0, 0}, {until[i] / 1000000000, until[i] % 1000000000}};
    absolute[i] = (int)SYS(timerfd_create(kClocks[i], 0));
    SYS(timerfd_settime(absolute[i], TFD_TIMER_ABSTIME, &time, NULL));
  }
  VictimReady();
  uint64_t ticks = 0;
  for (int i = 0; i < 3; i++) {
    CHECK_EQ(SYS(read(periodic, &ticks, 8)), 8);
    CHECK(ticks >= 1, "no tick");
  }
  for (int i = 0; i < 2; i++) {
    CHECK_EQ(SYS(read(absolute[i], &ticks, 8)), 8);
    CHECK_EQ(ticks, 1);
    CHECK(VictimNow(kClocks[i]) >= until[i], "clock %d: fired before its time", kClocks[i]);
  }
  VictimPass();
}
