// SPDX-License-Identifier: Apache-2.0
//
// A datagram socket whose peer has no address and has turned to another one cannot be connected again:
// refused.
#include <sys/socket.h>
#include <sys/un.h>

#include "victim.h"

int main(int argc, char** argv) {
  VictimInit(argc, argv);
  VictimEnterScratch();
  int pair[2], error;
  socklen_t length = sizeof(error);
  const struct sockaddr_un name = {.sun_family = AF_UNIX, .sun_path = "third.sock"};
  const int third = (int)SYS(socket(AF_UNIX, SOCK_DGRAM, 0));
  SYS(bind(third, (const struct sockaddr*)&name, sizeof(name)));
  SYS(socketpair(AF_UNIX, SOCK_DGRAM, 0, pair));
  SYS(connect(pair[1], (const struct sockaddr*)&name, sizeof(name)));
  SYS(getsockopt(pair[0], SOL_SOCKET, SO_ERROR, &error, &length));  // takes the ECONNRESET that this gave
  VictimReady();
  CHECK_ERRNO(send(pair[0], "x", 1, 0), EPERM);  // connected to one who listens to another
  char bytes[8];
  SYS(send(pair[1], "third", 5, 0));
  CHECK_EQ(SYS(recv(third, bytes, sizeof(bytes), 0)), 5);
  VictimPass();
}
