// SPDX-License-Identifier: Apache-2.0
//
// The gs base (set with arch_prctl) and the fs base of each thread.
#include <asm/prctl.h>

#include "victim.h"

static _Thread_local int local;

static uint64_t ReadGs(void) {
  uint64_t value;
  __asm__ volatile("mov %%gs:8, %0" : "=r"(value));
  return value;
}

static int ends[2];

static void* Holder(void* argument) {
  uint64_t block[2] = {1, (uint64_t)(intptr_t)argument};
  char byte;
  SYS(syscall(SYS_arch_prctl, ARCH_SET_GS, block));
  SYS(read(ends[0], &byte, 1));
  CHECK_EQ(ReadGs(), (intptr_t)argument);
  unsigned long base = 0;
  SYS(syscall(SYS_arch_prctl, ARCH_GET_GS, &base));
  CHECK_EQ(base, (uintptr_t)block);
  return &local;
}

int main(int argc, char** argv) {
  VictimInit(argc, argv);
  struct VictimThread holders[2];
  SYS(pipe(ends));
  static uint64_t mine[2] = {5, 0x5555};
  SYS(syscall(SYS_arch_prctl, ARCH_SET_GS, mine));
  unsigned long before = 0, after = 0;
  SYS(syscall(SYS_arch_prctl, ARCH_GET_FS, &before));
  for (intptr_t i = 0; i < 2; i++) VictimSpawn(&holders[i], Holder, (void*)(i + 77));
  for (int i = 0; i < 2; i++) VictimAwaitBlocked(holders[i].tid, SYS_read);
  VictimReady();
  CHECK_EQ(ReadGs(), 0x5555);
  SYS(syscall(SYS_arch_prctl, ARCH_GET_FS, &after));
  CHECK_EQ(after, before);
  SYS(write(ends[1], "go", 2));
  CHECK(VictimJoin(&holders[0]) != VictimJoin(&holders[1]), "threads share thread-local data");
  VictimPass();
}
