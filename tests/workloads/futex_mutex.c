// SPDX-License-Identifier: Apache-2.0
//
// A thread that waits for a pthread mutex gets it when it is released afterwards.
#include "victim.h"

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static int guarded;

static void* Locker(void* unused) {
  PTHREAD(pthread_mutex_lock(&mutex));
  guarded++;
  PTHREAD(pthread_mutex_unlock(&mutex));
  return unused;
}

int main(int argc, char** argv) {
  VictimInit(argc, argv);
  struct VictimThread locker;
  PTHREAD(pthread_mutex_lock(&mutex));
  VictimSpawn(&locker, Locker, NULL);
  VictimAwaitBlocked(locker.tid, SYS_futex);
  VictimReady();
  CHECK_EQ(guarded, 0);
  guarded = 10;
  PTHREAD(pthread_mutex_unlock(&mutex));
  VictimJoin(&locker);
  CHECK_EQ(guarded, 11);
  VictimPass();
}
