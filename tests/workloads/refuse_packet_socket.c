// SPDX-License-Identifier: Apache-2.0
//
// A packet socket cannot be captured: refused, and it works on.
#include <arpa/inet.h>
#include <linux/if_ether.h>
#include <sys/socket.h>

#include "victim.h"

int main(int argc, char** argv) {
  VictimInit(argc, argv);
  const int fd = socket(AF_PACKET, SOCK_DGRAM, htons(ETH_P_LOOPBACK));
  if (fd < 0) VictimSkip("packet socket: %s", strerror(errno));
  VictimReady();
  int type = 0;
  socklen_t length = sizeof(type);
  SYS(getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &length));
  CHECK_EQ(type, SOCK_DGRAM);
  VictimPass();
}
