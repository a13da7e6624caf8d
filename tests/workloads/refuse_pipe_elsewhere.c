// SPDX-License-Identifier: Apache-2.0
//
// A pipe whose other end belongs to another process: refused, and it still leads there.
#include <sys/ioctl.h>
#include <sys/wait.h>

#include "victim.h"

// Starts a process that is no child of this one, reads from `keep`, and ends at the end of file.
static void Elsewhere(int keep, int close_there) {
  const pid_t middle = (pid_t)SYS(fork());
  if (middle == 0) {
    if (fork() == 0) {
      char byte;
      close(close_there);
      setsid();  // or the session would keep its number, which a restore needs
      while (read(keep, &byte, 1) > 0 || errno == EINTR) errno = 0;
    }
    _exit(0);
  }
  SYS(waitpid(middle, NULL, 0));
}

int main(int argc, char** argv) {
  VictimInit(argc, argv);
  int ends[2], left = 1;
  SYS(pipe(ends));
  Elsewhere(ends[0], ends[1]);
  SYS(close(ends[0]));
  VictimReady();
  SYS(write(ends[1], "still", 5));  // SIGPIPE if nobody reads
  for (int i = 0; i < 1000 && left != 0; i++) {
    VictimSleepMs(2);
    SYS(ioctl(ends[1], FIONREAD, &left));
  }
  CHECK_EQ(left, 0);
  VictimPass();
}
