// SPDX-License-Identifier: Apache-2.0
//
// Unix pairs with one side closed or shut down for writing, with data still queued.
#include <sys/socket.h>

#include "victim.h"

int main(int argc, char** argv) {
  VictimInit(argc, argv);
  int gone[2], shut[2];
  char buffer[16];
  SYS(socketpair(AF_UNIX, SOCK_STREAM, 0, gone));
  SYS(socketpair(AF_UNIX, SOCK_STREAM, 0, shut));
  SYS(write(gone[1], "bye", 3));
  SYS(close(gone[1]));
  SYS(write(shut[1], "half", 4));
  SYS(shutdown(shut[1], SHUT_WR));
  signal(SIGPIPE, SIG_IGN);
  VictimReady();
  CHECK_EQ(SYS(read(gone[0], buffer, 16)), 3);
  CHECK_EQ(SYS(read(gone[0], buffer, 16)), 0);
  CHECK_ERRNO(write(gone[0], "x", 1), EPIPE);
  CHECK_EQ(SYS(read(shut[0], buffer, 16)), 4);
  CHECK_EQ(SYS(read(shut[0], buffer, 16)), 0);
  CHECK_ERRNO(write(shut[1], "x", 1), EPIPE);
  SYS(write(shut[0], "ok", 2));  // the other direction is open
  CHECK_EQ(SYS(read(shut[1], buffer, 16)), 2);
  VictimPass();
}
