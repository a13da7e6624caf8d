// SPDX-License-Identifier: Apache-2.0
//
// POSIX record locks: a child sees who holds which range; closing any descriptor of the file drops them.
#include <sys/wait.h>

#include "victim.h"

static void CheckSeenByChild(off_t at, short wanted_type, off_t start, off_t length) {
  const pid_t parent = getpid(), child = (pid_t)SYS(fork());
  if (child == 0) {
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = at, .l_len = 1};
    const int fd = (int)SYS(open(VictimPath("posix"), O_RDWR));
    SYS(fcntl(fd, F_GETLK, &lock));
    CHECK_EQ(lock.l_type, wanted_type);
    if (wanted_type != F_UNLCK) {
      CHECK_EQ(lock.l_start, start);
      CHECK_EQ(lock.l_len, length);
      CHECK_EQ(lock.l_pid, parent);
    }
    _exit(0);
  }
  int status = 0;
  SYS(waitpid(child, &status, 0));
  if (status != 0) _exit(1);  // the child has told why
}

static void CheckAll(void) {
  CheckSeenByChild(15, F_WRLCK, 10, 10);
  CheckSeenByChild(60, F_RDLCK, 50, 50);
  CheckSeenByChild(5000, F_WRLCK, 1000, 0);
  CheckSeenByChild(30, F_UNLCK, 0, 0);
}

int main(int argc, char** argv) {
  VictimInit(argc, argv);
  const int fd = VictimFile("posix", 2000, 0);
  SYS(fcntl(fd, F_SETLK, &(struct flock){.l_type = F_WRLCK, .l_start = 10, .l_len = 10}));
  SYS(fcntl(fd, F_SETLK, &(struct flock){.l_type = F_RDLCK, .l_start = 50, .l_len = 50}));
  SYS(fcntl(fd, F_SETLK, &(struct flock){.l_type = F_WRLCK, .l_start = 1000, .l_len = 0}));
  CheckAll();
  VictimReady();
  CheckAll();
  SYS(close((int)SYS(open(VictimPath("posix"), O_RDONLY))));
  CheckSeenByChild(15, F_UNLCK, 0, 0);
  VictimPass();
}
