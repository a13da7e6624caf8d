// SPDX-License-Identifier: Apache-2.0
//
// Threads that come and go all the time, also while the process is being stopped.
#include "victim.h"

static atomic_bool stop;
static atomic_int made;

static void* Short(void* argument) {
  char page[2048];
  VictimFill(page, sizeof(page), (uint64_t)(intptr_t)argument);
  VictimVerify(page, sizeof(page), (uint64_t)(intptr_t)argument);
  return argument;
}

static void* Maker(void* unused) {
  while (!stop) {
    pthread_t thread;
    void* result;
    PTHREAD(pthread_create(&thread, NULL, Short, (void*)(intptr_t)made));
    PTHREAD(pthread_join(thread, &result));
    made++;
  }
  return unused;
}

int main(int argc, char** argv) {
  VictimInit(argc, argv);
  struct VictimThread makers[2];
  for (int i = 0; i < 2; i++) VictimSpawn(&makers[i], Maker, NULL);
  while (made < 20) VictimSleepMs(1);
  VictimReady();
  const int before = made;
  while (made < before + 20) VictimSleepMs(1);
  stop = true;
  for (int i = 0; i < 2; i++) VictimJoin(&makers[i]);
  VictimPass();
}
