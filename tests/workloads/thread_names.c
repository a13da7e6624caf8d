// SPDX-License-Identifier: Apache-2.0
//
// The name of each thread, odd bytes included.
#include <sys/prctl.h>

#include "victim.h"

static const char* const kNames[] = {"fifteen-letters", "", "a b)c (d", "\xff\x01\tx\n\\y", "worker/7"};
static atomic_int named;
static int ends[2];

static void* Thread(void* argument) {
  const char* name = argument;
  char byte, now[16] = {0};
  SYS(prctl(PR_SET_NAME, name));
  named++;
  SYS(read(ends[0], &byte, 1));
  SYS(prctl(PR_GET_NAME, now));
  CHECK_STR(now, name);
  return NULL;
}

int main(int argc, char** argv) {
  VictimInit(argc, argv);
  struct VictimThread threads[5];
  char now[16] = {0};
  SYS(pipe(ends));
  SYS(prctl(PR_SET_NAME, "x) R 1 (\n\x7f"));
  for (int i = 0; i < 5; i++) VictimSpawn(&threads[i], Thread, (void*)kNames[i]);
  while (named < 5) VictimSleepMs(1);
  for (int i = 0; i < 5; i++) VictimAwaitBlocked(threads[i].tid, SYS_read);
  VictimReady();
  SYS(prctl(PR_GET_NAME, now));
  CHECK_STR(now, "x) R 1 (\n\x7f");
  SYS(write(ends[1], "xxxxx", 5));
  for (int i = 0; i < 5; i++) VictimJoin(&threads[i]);
  VictimPass();
}
