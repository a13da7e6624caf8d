// SPDX-License-Identifier: Apache-2.0
//
// Thread-local data of many sizes and pthread keys with destructors.
#include "victim.h"

static _Thread_local char big[100000];
static _Thread_local uint64_t* pointer;
static pthread_key_t key;
static atomic_int destroyed;
static int ends[2];

static void Destroy(void* value) { destroyed += (int)(intptr_t)value; }

static void* Thread(void* argument) {
  uint64_t on_stack = (uint64_t)(intptr_t)argument;
  char byte;
  pointer = &on_stack;
  VictimFill(big, sizeof(big), on_stack);
  PTHREAD(pthread_setspecific(key, argument));
  errno = 1000 + (int)on_stack;
  const int error = errno;
  SYS(read(ends[0], &byte, 1));
  CHECK_EQ(error, 1000 + on_stack);
  CHECK(pointer == &on_stack, "thread-local pointer changed");
  VictimVerify(big, sizeof(big), on_stack);
  CHECK(pthread_getspecific(key) == argument, "thread-specific value changed");
  return NULL;
}

int main(int argc, char** argv) {
  VictimInit(argc, argv);
  struct VictimThread threads[10];
  SYS(pipe(ends));
  PTHREAD(pthread_key_create(&key, Destroy));
  for (intptr_t i = 0; i < 10; i++) VictimSpawn(&threads[i], Thread, (void*)(i + 1));
  for (int i = 0; i < 10; i++) VictimAwaitBlocked(threads[i].tid, SYS_read);
  VictimReady();
  SYS(write(ends[1], "xxxxxxxxxx", 10));
  for (int i = 0; i < 10; i++) VictimJoin(&threads[i]);
  CHECK_EQ(destroyed, 55);
  VictimPass();
}
