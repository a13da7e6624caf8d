// SPDX-License-Identifier: Apache-2.0
//
// New threads can be made, joined and detached afterwards.
#include "victim.h"

static _Thread_local int local = 5;
static atomic_int sum;

static void* Thread(void* argument) {
  CHECK_EQ(local, 5);
  local = (int)(intptr_t)argument;
  sum += local;
  return argument;
}

int main(int argc, char** argv) {
  VictimInit(argc, argv);
  pthread_t thread;
  PTHREAD(pthread_create(&thread, NULL, Thread, (void*)1));  // its stack stays in libc's cache
  PTHREAD(pthread_join(thread, NULL));
  VictimReady();
  for (intptr_t i = 0; i < 200; i++) {
    void* result = NULL;
    PTHREAD(pthread_create(&thread, NULL, Thread, (void*)i));
    PTHREAD(pthread_join(thread, &result));
    CHECK_EQ((intptr_t)result, i);
  }
  CHECK_EQ(sum, 1 + 199 * 200 / 2);
  PTHREAD(pthread_create(&thread, NULL, Thread, (void*)1000000));
  PTHREAD(pthread_detach(thread));
  while (sum < 1000000) VictimSleepMs(1);
  VictimPass();
}
