// SPDX-License-Identifier: Apache-2.0
//
// A thread that waits in pthread_join for another returns when that ends (clear_child_tid).
#include "victim.h"

static int ends[2];
static struct VictimThread sleeper;

static void* Sleeper(void* unused) {
  char byte;
  (void)unused;
  SYS(read(ends[0], &byte, 1));
  return (void*)77;
}

static void* Joiner(void* unused) {
  (void)unused;
  return VictimJoin(&sleeper);
}

int main(int argc, char** argv) {
  VictimInit(argc, argv);
  struct VictimThread joiner;
  SYS(pipe(ends));
  VictimSpawn(&sleeper, Sleeper, NULL);
  VictimSpawn(&joiner, Joiner, NULL);
  VictimAwaitBlocked(sleeper.tid, SYS_read);
  VictimAwaitBlocked(joiner.tid, SYS_futex);
  VictimReady();
  SYS(write(ends[1], "x", 1));
  CHECK_EQ((intptr_t)VictimJoin(&joiner), 77);
  VictimPass();
}
