// SPDX-License-Identifier: Apache-2.0
//
// A thread that waits in flock(2) gets the lock when the other description lets go.
#include <sys/file.h>

#include "victim.h"

static int waiting_fd;
static atomic_bool locked;

static void* Locker(void* unused) {
  SYS(flock(waiting_fd, LOCK_EX));
  locked = true;
  return unused;
}

int main(int argc, char** argv) {
  VictimInit(argc, argv);
  struct VictimThread locker;
  const int holding_fd = VictimFile("lock", 10, 0);
  waiting_fd = (int)SYS(open(VictimPath("lock"), O_RDWR));
  SYS(flock(holding_fd, LOCK_EX));
  VictimSpawn(&locker, Locker, NULL);
  VictimAwaitBlocked(locker.tid, SYS_flock);
  VictimReady();
  VictimSleepMs(20);
  CHECK(!locked, "two hold the same lock");
  SYS(flock(holding_fd, LOCK_UN));
  VictimJoin(&locker);
  CHECK(locked, "lock was not taken");
  VictimPass();
}
