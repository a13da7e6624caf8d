// SPDX-License-Identifier: Apache-2.0
//
// A connected unix socket whose other end belongs to another process: comes back closed.
#include <sys/socket.h>
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
  int pair[2];
  char byte;
  SYS(socketpair(AF_UNIX, SOCK_STREAM, 0, pair));
  Elsewhere(pair[0], pair[1]);
  SYS(close(pair[0]));
  VictimReady();
  SYS(signal(SIGPIPE, SIG_IGN) == SIG_ERR ? -1 : 0);
  if (VictimRestored()) {
    CHECK_EQ(SYS(read(pair[1], &byte, 1)), 0);
    CHECK_ERRNO(write(pair[1], "x", 1), EPIPE);
  } else {
    CHECK_EQ(SYS(write(pair[1], "x", 1)), 1);
    CHECK_ERRNO(recv(pair[1], &byte, 1, MSG_DONTWAIT), EAGAIN);
  }
  VictimPass();
}
