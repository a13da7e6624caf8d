// SPDX-License-Identifier: Apache-2.0
//
// A raw IP socket cannot be captured: refused, and it works on.
#include <netinet/in.h>
#include <sys/socket.h>

#include "victim.h"

int main(int argc, char** argv) {
  VictimInit(argc, argv);
  const int fd = socket(AF_INET, SOCK_RAW, IPPROTO_ICMP);
  if (fd < 0) VictimSkip("raw socket: %s", strerror(errno));
  VictimReady();
  int protocol = 0;
  socklen_t length = sizeof(protocol);
  SYS(getsockopt(fd, SOL_SOCKET, SO_PROTOCOL, &protocol, &length));
  CHECK_EQ(protocol, IPPROTO_ICMP);
  VictimPass();
}
