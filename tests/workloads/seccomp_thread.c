// SPDX-License-Identifier: Apache-2.0
//
// A seccomp filter of one thread that the others do not have.
#include "seccomp.inc"
#include "victim.h"

static int ends[2];

static void* Thread(void* unused) {
  char byte;
  Deny(SYS_getpriority, EPERM, 0);
  SYS(read(ends[0], &byte, 1));
  CHECK_ERRNO(syscall(SYS_getpriority, 0, 0), EPERM);
  return unused;
}

int main(int argc, char** argv) {
  VictimInit(argc, argv);
  VictimNeedRoot();
  struct VictimThread thread;
  SYS(pipe(ends));
  VictimSpawn(&thread, Thread, NULL);
  VictimAwaitBlocked(thread.tid, SYS_read);
  VictimReady();
  CHECK_EQ(SeccompMode(), 0);
  SYS(syscall(SYS_getpriority, 0, 0));
  SYS(write(ends[1], "x", 1));
  VictimJoin(&thread);
  VictimPass();
}
