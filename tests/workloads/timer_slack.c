// SPDX-License-Identifier: Apache-2.0
//
// The timer slack of each thread, and the process's default for it.
#include <sys/prctl.h>

#include "victim.h"

static int ends[2];

static void* Thread(void* unused) {
  char byte;
  CHECK_EQ(prctl(PR_GET_TIMERSLACK), 123456);  // inherited
  SYS(prctl(PR_SET_TIMERSLACK, 77777));
  SYS(read(ends[0], &byte, 1));
  CHECK_EQ(prctl(PR_GET_TIMERSLACK), 77777);
  return unused;
}

int main(int argc, char** argv) {
  VictimInit(argc, argv);
  struct VictimThread thread;
  SYS(pipe(ends));
  SYS(prctl(PR_SET_TIMERSLACK, 123456));
  VictimSpawn(&thread, Thread, NULL);
  VictimAwaitBlocked(thread.tid, SYS_read);
  VictimReady();
  CHECK_EQ(prctl(PR_GET_TIMERSLACK), 123456);
  SYS(write(ends[1], "x", 1));
  VictimJoin(&thread);
  VictimPass();
}
