// SPDX-License-Identifier: Apache-2.0
//
// Urgent data waits in a unix socket: refused, and still urgent.
#include <sys/socket.h>

#include "victim.h"

int main(int argc, char** argv) {
  VictimInit(argc, argv);
  int pair[2];
  char bytes[8];
  SYS(socketpair(AF_UNIX, SOCK_STREAM, 0, pair));
  CHECK_EQ(SYS(write(pair[0], "abc", 3)), 3);
  if (send(pair[0], "X", 1, MSG_OOB) < 0) VictimSkip("MSG_OOB: %s", strerror(errno));
  VictimReady();
  CHECK_EQ(SYS(recv(pair[1], bytes, sizeof(bytes), MSG_OOB)), 1);
  CHECK_EQ(bytes[0], 'X');
  CHECK_EQ(SYS(read(pair[1], bytes, sizeof(bytes))), 3);
  VictimPass();
}
