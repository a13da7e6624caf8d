// SPDX-License-Identifier: Apache-2.0
//
// no_new_privs of one thread and not of another.
#include <sys/prctl.h>

#include "victim.h"

static int ends[2];

static void* Thread(void* unused) {
  char byte;
  SYS(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
  SYS(read(ends[0], &byte, 1));
  CHECK_EQ(prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0), 1);
  return unused;
}

int main(int argc, char** argv) {
  VictimInit(argc, argv);
  struct VictimThread thread;
  SYS(pipe(ends));
  const int mine = prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0);
  VictimSpawn(&thread, Thread, NULL);
  VictimAwaitBlocked(thread.tid, SYS_read);
  VictimReady();
  CHECK_EQ(prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0), mine);
  SYS(write(ends[1], "x", 1));
  VictimJoin(&thread);
  VictimPass();
}
