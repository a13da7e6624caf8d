// SPDX-License-Identifier: Apache-2.0
//
// A relative sleep lasts at least as long as asked, in all, and ends without an error.
#include "victim.h"

static void* Sleeper(void* took) {
  const struct timespec time = {kWaitSeconds, 0};
  const int64_t start = VictimNow(CLOCK_MONOTONIC);
  SYS(syscall(SYS_nanosleep, &time, NULL));
  *(int64_t*)took = VictimNow(CLOCK_MONOTONIC) - start;
  return NULL;
}

int main(int argc, char** argv) {
  VictimInit(argc, argv);
  struct VictimThread sleeper;
  int64_t took = 0;
  VictimSpawn(&sleeper, Sleeper, &took);
  VictimAwaitBlocked(sleeper.tid, SYS_nanosleep);
  VictimReady();
  VictimJoin(&sleeper);
  CHECK(took >= WAIT_NS, "a sleep of %d s took %lld ns", kWaitSeconds, (long long)took);
  VictimPass();
}
