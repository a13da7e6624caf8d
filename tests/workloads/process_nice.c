// SPDX-License-Identifier: Apache-2.0
//
// The nice value of the process and its I/O priority; new threads inherit both.
#include <sys/resource.h>

#include "victim.h"

enum { kIoPriority = 2 << 13 | 6 };  // best effort, level 6

static void* Thread(void* unused) {
  CHECK_EQ(getpriority(PRIO_PROCESS, 0), 11);
  CHECK_EQ(syscall(SYS_ioprio_get, 1, 0), kIoPriority);
  return unused;
}

int main(int argc, char** argv) {
  VictimInit(argc, argv);
  struct VictimThread thread;
  SYS(setpriority(PRIO_PROCESS, 0, 11));
  SYS(syscall(SYS_ioprio_set, 1, 0, kIoPriority));
  VictimReady();
  Thread(NULL);
  VictimSpawn(&thread, Thread, NULL);
  VictimJoin(&thread);
  VictimPass();
}
