// SPDX-License-Identifier: Apache-2.0
//
// A datagram socket whose peer is another process's and has no address cannot be connected again: refused,
// and the two still talk.
#include <sys/socket.h>
#include <sys/wait.h>

#include "victim.h"

// Starts a process that is no child of this one and echoes one datagram.
static void Elsewhere(int keep, int close_there) {
  const pid_t middle = (pid_t)SYS(fork());
  if (middle == 0) {
    if (fork() == 0) {
      char bytes[8];
      close(close_there);
      const ssize_t count = recv(keep, bytes, sizeof(bytes), 0);
      _exit(count > 0 && send(keep, bytes, (size_t)count, 0) == count ? 0 : 1);
    }
    _exit(0);
  }
  SYS(waitpid(middle, NULL, 0));
}

int main(int argc, char** argv) {
  VictimInit(argc, argv);
  int pair[2];
  SYS(socketpair(AF_UNIX, SOCK_DGRAM, 0, pair));
  Elsewhere(pair[0], pair[1]);
  SYS(close(pair[0]));
  VictimReady();
  char bytes[8];
  SYS(send(pair[1], "echo", 4, 0));
  CHECK_EQ(SYS(recv(pair[1], bytes, sizeof(bytes), 0)), 4);
  VictimPass();
}
