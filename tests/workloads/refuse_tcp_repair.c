// SPDX-License-Identifier: Apache-2.0
//
// A TCP socket in repair mode cannot be captured: refused, and it stays in it.
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

#include "victim.h"

int main(int argc, char** argv) {
  VictimInit(argc, argv);
  const int fd = (int)SYS(socket(AF_INET, SOCK_STREAM, 0));
  int repair = 1;
  if (setsockopt(fd, IPPROTO_TCP, TCP_REPAIR, &repair, sizeof(repair)) != 0)
    VictimSkip("TCP_REPAIR: %s", strerror(errno));
  VictimReady();
  socklen_t length = sizeof(repair);
  repair = 0;
  SYS(getsockopt(fd, IPPROTO_TCP, TCP_REPAIR, &repair, &length));
  CHECK_EQ(repair, 1);
  VictimPass();
}
