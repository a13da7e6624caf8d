// SPDX-License-Identifier: Apache-2.0
//
// A thread in seccomp's strict mode, which may only read, write and end.
#include <linux/seccomp.h>
#include <sys/prctl.h>

#include "victim.h"

static int question[2], answer[2];

static void* Thread(void* unused) {
  char byte;
  SYS(prctl(PR_SET_SECCOMP, SECCOMP_MODE_STRICT, 0, 0, 0));
  read(question[0], &byte, 1);
  byte++;
  write(answer[1], &byte, 1);
  read(question[0], &byte, 1);
  syscall(SYS_exit, 0);
  return unused;
}

static void CheckMode(pid_t tid) {
  char path[64], value[16];
  snprintf(path, sizeof(path), "/proc/self/task/%d/status", (int)tid);
  VictimProcField(path, "Seccomp", value, sizeof(value));
  CHECK_STR(value, "1");
}

int main(int argc, char** argv) {
  VictimInit(argc, argv);
  struct VictimThread thread;
  SYS(pipe(question));
  SYS(pipe(answer));
  VictimSpawn(&thread, Thread, NULL);
  VictimAwaitBlocked(thread.tid, SYS_read);
  CheckMode(thread.tid);
  VictimReady();
  CheckMode(thread.tid);
  char byte = 'a';
  SYS(write(question[1], &byte, 1));
  CHECK_EQ(SYS(read(answer[0], &byte, 1)), 1);
  CHECK_EQ(byte, 'b');
  VictimPass();  // the thread goes with the process
}
