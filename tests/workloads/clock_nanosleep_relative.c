// SPDX-License-Identifier: Apache-2.0
//
// Relative sleeps of CLOCK_MONOTONIC and CLOCK_BOOTTIME last as long as asked on the whole.
#include "victim.h"

static void* Sleeper(void* clock_argument) {
  const clockid_t clock = (clockid_t)(intptr_t)clock_argument;
  const struct timespec time = {kWaitSeconds, 0};
  const int64_t start = VictimNow(clock);
  CHECK_EQ(clock_nanosleep(clock, 0, &time, NULL), 0);
  CHECK(VictimNow(clock) - start >= WAIT_NS, "clock %d: slept %lld ns, not %d s", clock,
        (long long)(VictimNow(clock) - start), kWaitSeconds);
  return NULL;
}

int main(int argc, char** argv) {
  VictimInit(argc, argv);
  struct VictimThread monotonic, boottime;
  VictimSpawn(&monotonic, Sleeper, (void*)CLOCK_MONOTONIC);
  VictimSpawn(&boottime, Sleeper, (void*)CLOCK_BOOTTIME);
  VictimAwaitBlocked(monotonic.tid, SYS_clock_nanosleep);
  VictimAwaitBlocked(boottime.tid, SYS_clock_nanosleep);
  VictimReady();
  VictimJoin(&monotonic);
  VictimJoin(&boottime);
  VictimPass();
}
