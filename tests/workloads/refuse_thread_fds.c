// SPDX-License-Identifier: Apache-2.0
//
// A thread with descriptors of its own (unshare): refused, and it keeps them.
#include <sched.h>

#include "victim.h"

static int ends[2];

static void* Thread(void* unused) {
  char byte;
  SYS(unshare(CLONE_FILES));
  const int own = (int)SYS(dup(ends[0]));
  SYS(read(ends[0], &byte, 1));
  CHECK_EQ(fcntl(own, F_GETFD), 0);
  return unused;
}

int main(int argc, char** argv) {
  VictimInit(argc, argv);
  struct VictimThread thread;
  SYS(pipe(ends));
  VictimSpawn(&thread, Thread, NULL);
  VictimAwaitBlocked(thread.tid, SYS_read);
  VictimReady();
  SYS(write(ends[1], "x", 1));
  VictimJoin(&thread);
  VictimPass();
}
