// SPDX-License-Identifier: Apache-2.0
//
// Each thread has its own signal mask.
#include "victim.h"

static int ends[2];

static uint64_t Mask(void) {
  uint64_t mask = 0;
  SYS(syscall(SYS_rt_sigprocmask, SIG_BLOCK, NULL, &mask, 8));
  return mask;
}

static void* Thread(void* argument) {
  uint64_t mask =
      (0x0123456789abcdefull << (intptr_t)argument) & ~(1ull << (SIGKILL - 1) | 1ull << (SIGSTOP - 1));
  char byte;
  SYS(syscall(SYS_rt_sigprocmask, SIG_SETMASK, &mask, NULL, 8));
  SYS(read(ends[0], &byte, 1));
  CHECK_EQ(Mask(), mask);
  return NULL;
}

int main(int argc, char** argv) {
  VictimInit(argc, argv);
  struct VictimThread threads[4];
  SYS(pipe(ends));
  const uint64_t mine = Mask();
  for (intptr_t i = 0; i < 4; i++) VictimSpawn(&threads[i], Thread, (void*)i);
  for (int i = 0; i < 4; i++) VictimAwaitBlocked(threads[i].tid, SYS_read);
  VictimReady();
  CHECK_EQ(Mask(), mine);
  SYS(write(ends[1], "xxxx", 4));
  for (int i = 0; i < 4; i++) VictimJoin(&threads[i]);
  VictimPass();
}
