// SPDX-License-Identifier: Apache-2.0
//
// A thread in pthread_cond_wait is woken by a signal of the condition made afterwards.
#include "victim.h"

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t condition = PTHREAD_COND_INITIALIZER;
static int stage;

static void* Waiter(void* unused) {
  PTHREAD(pthread_mutex_lock(&mutex));
  while (stage == 0) PTHREAD(pthread_cond_wait(&condition, &mutex));
  stage = 2;
  PTHREAD(pthread_mutex_unlock(&mutex));
  return unused;
}

int main(int argc, char** argv) {
  VictimInit(argc, argv);
  struct VictimThread waiter;
  VictimSpawn(&waiter, Waiter, NULL);
  VictimAwaitBlocked(waiter.tid, SYS_futex);
  VictimReady();
  PTHREAD(pthread_mutex_lock(&mutex));
  CHECK_EQ(stage, 0);
  stage = 1;
  PTHREAD(pthread_cond_signal(&condition));
  PTHREAD(pthread_mutex_unlock(&mutex));
  VictimJoin(&waiter);
  CHECK_EQ(stage, 2);
  VictimPass();
}
