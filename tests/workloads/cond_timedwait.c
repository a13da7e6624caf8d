// SPDX-License-Identifier: Apache-2.0
//
// pthread_cond_timedwait until a deadline of CLOCK_REALTIME and of CLOCK_MONOTONIC: not before, and
// ETIMEDOUT.
#include "victim.h"

static void* Waiter(void* clock_argument) {
  const clockid_t clock = (clockid_t)(intptr_t)clock_argument;
  pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
  pthread_cond_t condition;
  pthread_condattr_t attributes;
  PTHREAD(pthread_condattr_init(&attributes));
  PTHREAD(pthread_condattr_setclock(&attributes, clock));
  PTHREAD(pthread_cond_init(&condition, &attributes));
  const int64_t deadline = VictimNow(clock) + WAIT_NS;
  const struct timespec until = {deadline / 1000000000, deadline % 1000000000};
  PTHREAD(pthread_mutex_lock(&mutex));
  int error;
  while ((error = pthread_cond_timedwait(&condition, &mutex, &until)) == 0) {
  }
  CHECK_EQ(error, ETIMEDOUT);
  CHECK(VictimNow(clock) >= deadline, "woken %lld ns before the deadline of clock %d",
        (long long)(deadline - VictimNow(clock)), clock);
  return NULL;
}

int main(int argc, char** argv) {
  VictimInit(argc, argv);
  struct VictimThread monotonic, realtime;
  VictimSpawn(&monotonic, Waiter, (void*)CLOCK_MONOTONIC);
  VictimSpawn(&realtime, Waiter, (void*)CLOCK_REALTIME);
  VictimAwaitBlocked(monotonic.tid, SYS_futex);
  VictimAwaitBlocked(realtime.tid, SYS_futex);
  VictimReady();
  VictimJoin(&monotonic);
  VictimJoin(&realtime);
  VictimPass();
}
