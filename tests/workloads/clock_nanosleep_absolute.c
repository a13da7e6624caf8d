// SPDX-License-Identifier: Apache-2.0
//
// An absolute sleep ends at its time and not before.
#include "victim.h"

static void* Sleeper(void* unused) {
  const int64_t until = VictimNow(CLOCK_MONOTONIC) + WAIT_NS;
  const struct timespec deadline = {until / 1000000000, until % 1000000000};
  CHECK_EQ(clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &deadline, NULL), 0);
  CHECK(VictimNow(CLOCK_MONOTONIC) >= until, "woke too early");
  return unused;
}

int main(int argc, char** argv) {
  VictimInit(argc, argv);
  struct VictimThread sleeper;
  VictimSpawn(&sleeper, Sleeper, NULL);
  VictimAwaitBlocked(sleeper.tid, SYS_clock_nanosleep);
  VictimReady();
  VictimJoin(&sleeper);
  VictimPass();
}
