// SPDX-License-Identifier: Apache-2.0
//
// The owner of a robust mutex dies afterwards: the next locker gets EOWNERDEAD.
#include "victim.h"

static pthread_mutex_t mutex;
static int ends[2];

static void* Owner(void* unused) {
  char byte;
  PTHREAD(pthread_mutex_lock(&mutex));
  SYS(read(ends[0], &byte, 1));
  return unused;
}

int main(int argc, char** argv) {
  VictimInit(argc, argv);
  struct VictimThread owner;
  pthread_mutexattr_t attributes;
  SYS(pipe(ends));
  PTHREAD(pthread_mutexattr_init(&attributes));
  PTHREAD(pthread_mutexattr_setrobust(&attributes, PTHREAD_MUTEX_ROBUST));
  PTHREAD(pthread_mutex_init(&mutex, &attributes));
  VictimSpawn(&owner, Owner, NULL);
  VictimAwaitBlocked(owner.tid, SYS_read);
  VictimReady();
  CHECK_EQ(pthread_mutex_trylock(&mutex), EBUSY);
  SYS(write(ends[1], "x", 1));
  CHECK_EQ(pthread_mutex_lock(&mutex), EOWNERDEAD);
  PTHREAD(pthread_mutex_consistent(&mutex));
  PTHREAD(pthread_mutex_unlock(&mutex));
  VictimJoin(&owner);
  VictimPass();
}
