// SPDX-License-Identifier: Apache-2.0
//
// Threads that never enter the kernel: captured and continued in the middle of their loops.
#include "victim.h"

static atomic_bool stop;
static _Atomic uint64_t turns[3];

static void* Spinner(void* argument) {
  const intptr_t index = (intptr_t)argument;
  uint64_t count = 0;
  while (!atomic_load_explicit(&stop, memory_order_relaxed)) {
    atomic_store_explicit(&turns[index], ++count, memory_order_relaxed);
  }
  CHECK_EQ(turns[index], count);
  return NULL;
}

int main(int argc, char** argv) {
  VictimInit(argc, argv);
  struct VictimThread threads[3];
  for (intptr_t i = 0; i < 3; i++) VictimSpawn(&threads[i], Spinner, (void*)i);
  VictimReady();
  for (int i = 0; i < 3; i++) {
    const uint64_t before = turns[i];
    while (turns[i] == before) VictimSleepMs(1);
  }
  stop = true;
  for (int i = 0; i < 3; i++) VictimJoin(&threads[i]);
  VictimPass();
}
