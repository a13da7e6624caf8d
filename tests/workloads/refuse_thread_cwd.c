// SPDX-License-Identifier: Apache-2.0
//
// A thread with a working directory of its own (unshare): refused, and it keeps them.
#include <sched.h>

#include "victim.h"

static int ends[2];

static void* Thread(void* unused) {
  char byte;
  SYS(unshare(CLONE_FS));
  SYS(chdir("/"));
  SYS(read(ends[0], &byte, 1));
  char path[512];
  SYS(syscall(SYS_getcwd, path, sizeof(path)));
  CHECK_STR(path, "/");
  return unused;
}

int main(int argc, char** argv) {
  VictimInit(argc, argv);
  struct VictimThread thread;
  SYS(pipe(ends));
  VictimSpawn(&thread, Thread, NULL);
  VictimAwaitBlocked(thread.tid, SYS_read);
  VictimReady();
  char path[512];
  SYS(syscall(SYS_getcwd, path, sizeof(path)));
  CHECK(strcmp(path, "/") != 0, "the others moved, too");
  SYS(write(ends[1], "x", 1));
  VictimJoin(&thread);
  VictimPass();
}
