// SPDX-License-Identifier: Apache-2.0
//
// A priority-inheritance mutex that is held, not contended, still belongs to its owner.
#include "victim.h"

static pthread_mutex_t mutex;

static void* Locker(void* unused) {
  PTHREAD(pthread_mutex_lock(&mutex));
  PTHREAD(pthread_mutex_unlock(&mutex));
  return unused;
}

int main(int argc, char** argv) {
  VictimInit(argc, argv);
  struct VictimThread locker;
  pthread_mutexattr_t attributes;
  PTHREAD(pthread_mutexattr_init(&attributes));
  PTHREAD(pthread_mutexattr_setprotocol(&attributes, PTHREAD_PRIO_INHERIT));
  PTHREAD(pthread_mutexattr_settype(&attributes, PTHREAD_MUTEX_ERRORCHECK));
  PTHREAD(pthread_mutex_init(&mutex, &attributes));
  PTHREAD(pthread_mutex_lock(&mutex));
  VictimReady();
  CHECK_EQ(pthread_mutex_lock(&mutex), EDEADLK);
  VictimSpawn(&locker, Locker, NULL);
  VictimAwaitBlocked(locker.tid, SYS_futex);  // the kernel finds the owner by the tid in the word
  PTHREAD(pthread_mutex_unlock(&mutex));
  VictimJoin(&locker);
  VictimPass();
}
