// SPDX-License-Identifier: Apache-2.0
//
// A netlink socket cannot be captured: refused, and it works on.
#include <linux/netlink.h>
#include <sys/socket.h>

#include "victim.h"

int main(int argc, char** argv) {
  VictimInit(argc, argv);
  const int fd = (int)SYS(socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE));
  const struct sockaddr_nl any = {.nl_family = AF_NETLINK};
  SYS(bind(fd, (const struct sockaddr*)&any, sizeof(any)));
  struct sockaddr_nl before, after;
  socklen_t length = sizeof(before);
  SYS(getsockname(fd, (struct sockaddr*)&before, &length));
  VictimReady();
  SYS(getsockname(fd, (struct sockaddr*)&after, &length));
  CHECK_EQ(after.nl_pid, before.nl_pid);
  VictimPass();
}
