// SPDX-License-Identifier: Apache-2.0
//
// FUTEX_WAIT with a relative timeout: ETIMEDOUT, and not early on the whole.
#include <linux/futex.h>

#include "victim.h"

static uint32_t word = 7;

static void* Waiter(void* took) {
  const struct timespec timeout = {kWaitSeconds, 0};
  const int64_t start = VictimNow(CLOCK_MONOTONIC);
  CHECK_ERRNO(syscall(SYS_futex, &word, FUTEX_WAIT_PRIVATE, 7, &timeout, NULL, 0), ETIMEDOUT);
  *(int64_t*)took = VictimNow(CLOCK_MONOTONIC) - start;
  return NULL;
}

int main(int argc, char** argv) {
  VictimInit(argc, argv);
  struct VictimThread waiter;
  int64_t took = 0;
  VictimSpawn(&waiter, Waiter, &took);
  VictimAwaitBlocked(waiter.tid, SYS_futex);
  VictimReady();
  VictimJoin(&waiter);
  CHECK(took >= WAIT_NS, "a wait of %d s took %lld ns", kWaitSeconds, (long long)took);
  VictimPass();
}
