// SPDX-License-Identifier: Apache-2.0
//
// Clocks never go back: a thread that reads them all the time would see it.
#include "victim.h"

static atomic_bool stop;
static atomic_int rounds;
static const struct {
  clockid_t clock;
  int64_t slack_ns;  // the raw and the real-time clock may be set or steered
} kClocks[] = {{CLOCK_MONOTONIC, 0},
               {CLOCK_MONOTONIC_COARSE, 0},
               {CLOCK_BOOTTIME, 0},
               {CLOCK_MONOTONIC_RAW, 1000000000},
               {CLOCK_REALTIME, 60000000000}};

static void* Watcher(void* unused) {
  int64_t last[5] = {0};
  while (!stop) {
    for (int i = 0; i < 5; i++) {
      const int64_t now = VictimNow(kClocks[i].clock);
      CHECK(now >= last[i] - kClocks[i].slack_ns, "clock %d went back by %lld ns", kClocks[i].clock,
            (long long)(last[i] - now));
      last[i] = now;
    }
    rounds++;
  }
  return unused;
}

int main(int argc, char** argv) {
  VictimInit(argc, argv);
  struct VictimThread watcher;
  VictimSpawn(&watcher, Watcher, NULL);
  while (rounds < 100) VictimSleepMs(1);
  const int64_t monotonic = VictimNow(CLOCK_MONOTONIC), boottime = VictimNow(CLOCK_BOOTTIME);
  VictimReady();
  CHECK(VictimNow(CLOCK_MONOTONIC) >= monotonic, "monotonic clock went back");
  CHECK(VictimNow(CLOCK_BOOTTIME) >= boottime, "boottime clock went back");
  const int before = rounds;
  while (rounds < before + 100) VictimSleepMs(1);
  stop = true;
  VictimJoin(&watcher);
  VictimPass();
}
