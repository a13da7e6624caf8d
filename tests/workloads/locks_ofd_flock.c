// SPDX-License-Identifier: Apache-2.0
//
// Locks of open file descriptions: F_OFD_SETLK ranges and flock, shared and exclusive.
#include <sys/file.h>

#include "victim.h"

int main(int argc, char** argv) {
  VictimInit(argc, argv);
  const int ofd = VictimFile("ofd", 1000, 0), exclusive = VictimFile("exclusive", 10, 0);
  const int shared = VictimFile("shared", 10, 0), copy = (int)SYS(dup(exclusive));
  SYS(fcntl(ofd, F_OFD_SETLK, &(struct flock){.l_type = F_WRLCK, .l_start = 100, .l_len = 100}));
  SYS(flock(exclusive, LOCK_EX));
  SYS(flock(shared, LOCK_SH));
  VictimReady();
  const int other = (int)SYS(open(VictimPath("ofd"), O_RDWR));
  struct flock lock = {.l_type = F_RDLCK, .l_start = 0, .l_len = 0};
  SYS(fcntl(other, F_OFD_GETLK, &lock));
  CHECK_EQ(lock.l_type, F_WRLCK);
  CHECK_EQ(lock.l_start, 100);
  CHECK_EQ(lock.l_len, 100);
  CHECK_EQ(lock.l_pid, -1);
  const int exclusive_other = (int)SYS(open(VictimPath("exclusive"), O_RDWR));
  const int shared_other = (int)SYS(open(VictimPath("shared"), O_RDWR));
  CHECK_ERRNO(flock(exclusive_other, LOCK_SH | LOCK_NB), EWOULDBLOCK);
  CHECK_ERRNO(flock(shared_other, LOCK_EX | LOCK_NB), EWOULDBLOCK);
  SYS(flock(shared_other, LOCK_SH | LOCK_NB));
  SYS(flock(copy, LOCK_UN));  // through the duplicate
  SYS(flock(exclusive_other, LOCK_EX | LOCK_NB));
  VictimPass();
}
