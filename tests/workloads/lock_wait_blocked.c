// SPDX-License-Identifier: Apache-2.0
//
// A thread that waits in fcntl(F_SETLKW), and one in F_OFD_SETLKW, get the lock when the holder lets go.
#include "victim.h"

static const struct {
  int command;
  off_t start;
} kWaits[2] = {{F_SETLKW, 0}, {F_OFD_SETLKW, 100}};
static int waiting_fd;
static atomic_int locked;

static struct flock Range(int type, off_t start) {
  return (struct flock){.l_type = (short)type, .l_whence = SEEK_SET, .l_start = start, .l_len = 10};
}

static void* Locker(void* argument) {
  const intptr_t i = (intptr_t)argument;
  struct flock wanted = Range(F_WRLCK, kWaits[i].start);
  SYS(fcntl(waiting_fd, kWaits[i].command, &wanted));
  locked++;
  return NULL;
}

int main(int argc, char** argv) {
  VictimInit(argc, argv);
  struct VictimThread lockers[2];
  // Locks of an open file description are in the way of the process's own as well.
  const int holding_fd = VictimFile("lock", 200, 0);
  waiting_fd = (int)SYS(open(VictimPath("lock"), O_RDWR));
  struct flock held = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_len = 200};
  SYS(fcntl(holding_fd, F_OFD_SETLK, &held));
  for (intptr_t i = 0; i < 2; i++) {
    VictimSpawn(&lockers[i], Locker, (void*)i);
    VictimAwaitBlocked(lockers[i].tid, SYS_fcntl);
  }
  VictimReady();
  VictimSleepMs(20);
  CHECK_EQ(locked, 0);
  held.l_type = F_UNLCK;
  SYS(fcntl(holding_fd, F_OFD_SETLK, &held));
  for (int i = 0; i < 2; i++) VictimJoin(&lockers[i]);
  CHECK_EQ(locked, 2);
  VictimPass();
}
