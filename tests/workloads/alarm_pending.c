// SPDX-License-Identifier: Apache-2.0
//
// alarm(2): not forgotten, and not early.
#include "victim.h"

static volatile sig_atomic_t fired;
static int64_t fired_at;
static void OnAlarm(int number) {
  (void)number;
  fired_at = VictimNow(CLOCK_MONOTONIC);
  fired = 1;
}

int main(int argc, char** argv) {
  VictimInit(argc, argv);
  SYS(sigaction(SIGALRM, &(struct sigaction){.sa_handler = OnAlarm}, NULL));
  const int64_t start = VictimNow(CLOCK_MONOTONIC);
  alarm(2);
  VictimReady();
  while (!fired) VictimSleepMs(5);
  CHECK(fired_at - start >= 1999000000LL, "alarm of 2 s after %lld ns", (long long)(fired_at - start));
  CHECK_EQ(alarm(0), 0);
  VictimPass();
}
