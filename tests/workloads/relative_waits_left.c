// SPDX-License-Identifier: Apache-2.0
//
// Relative waits, also those of which the kernel tells nobody how much is left (nanosleep without a rest,
// poll, FUTEX_WAIT), do not begin again: they end when a timerfd does that was armed with the same length
// before them. What is left of that one is known: it stays right where each of them would begin again.
#include <linux/futex.h>
#include <poll.h>
#include <sys/timerfd.h>

#include "victim.h"

enum { kTimeMs = 9000, kBeforeMs = 3000 };

static const struct timespec time_of_wait = {kTimeMs / 1000, kTimeMs % 1000 * 1000000};
static uint32_t word = 7;
static int timer;

static void* Expiry(void* end) {
  uint64_t ticks = 0;
  CHECK_EQ(SYS(read(timer, &ticks, sizeof(ticks))), sizeof(ticks));
  *(int64_t*)end = VictimNow(CLOCK_MONOTONIC);
  return NULL;
}

static void* SleepWithRest(void* end) {
  struct timespec rest;
  SYS(nanosleep(&time_of_wait, &rest));
  *(int64_t*)end = VictimNow(CLOCK_MONOTONIC);
  return NULL;
}

static void* Sleep(void* end) {
  SYS(syscall(SYS_nanosleep, &time_of_wait, NULL));
  *(int64_t*)end = VictimNow(CLOCK_MONOTONIC);
  return NULL;
}

static void* Poll(void* end) {
  CHECK_EQ(syscall(SYS_poll, NULL, 0, kTimeMs), 0);
  *(int64_t*)end = VictimNow(CLOCK_MONOTONIC);
  return NULL;
}

static void* Futex(void* end) {
  CHECK_ERRNO(syscall(SYS_futex, &word, FUTEX_WAIT_PRIVATE, 7, &time_of_wait, NULL, 0), ETIMEDOUT);
  *(int64_t*)end = VictimNow(CLOCK_MONOTONIC);
  return NULL;
}

int main(int argc, char** argv) {
  VictimInit(argc, argv);
  VictimNeedRoot();  // the list of timers is root's
  static void* (*const kWaits[])(void*) = {Expiry, SleepWithRest, Sleep, Poll, Futex};
  enum { kCount = sizeof(kWaits) / sizeof(kWaits[0]) };
  struct VictimThread threads[kCount];
  int64_t ends[kCount];
  timer = (int)SYS(timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC));
  SYS(timerfd_settime(timer, 0, &(struct itimerspec){.it_value = time_of_wait}, NULL));
  for (int i = 0; i < kCount; i++) VictimSpawn(&threads[i], kWaits[i], &ends[i]);
  VictimSleepMs(kBeforeMs);  // had a wait begun again, it would end that much later
  VictimReady();
  for (int i = 0; i < kCount; i++) VictimJoin(&threads[i]);
  for (int i = 1; i < kCount; i++) {
    const int64_t late = (ends[i] - ends[0]) / 1000000;
    CHECK(late > -kBeforeMs / 2 && late < kBeforeMs / 2, "wait %d ended %lld ms after the timer", i,
          (long long)late);
  }
  VictimPass();
}
