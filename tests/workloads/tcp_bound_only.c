// SPDX-License-Identifier: Apache-2.0
//
// TCP sockets that are bound but not listening, and one that is neither, can still be used for anything.
#include "inet.inc"
#include "victim.h"

int main(int argc, char** argv) {
  VictimInit(argc, argv);
  const int bound = (int)SYS(socket(AF_INET, SOCK_STREAM, 0));
  const int fresh = (int)SYS(socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0));
  SYS(setsockopt(fresh, SOL_SOCKET, SO_LINGER, &(struct linger){1, 3}, sizeof(struct linger)));
  const struct InetAddress address = BindLoopback(bound, AF_INET);
  VictimReady();
  CheckBound(bound, &address);
  CHECK_EQ(GetOption(bound, SOL_SOCKET, SO_ACCEPTCONN), 0);
  struct linger linger;
  socklen_t length = sizeof(linger);
  SYS(getsockopt(fresh, SOL_SOCKET, SO_LINGER, &linger, &length));
  CHECK(linger.l_onoff == 1 && linger.l_linger == 3, "SO_LINGER is %d, %d", linger.l_onoff, linger.l_linger);
  CHECK_EQ(fcntl(fresh, F_GETFL) & O_NONBLOCK, O_NONBLOCK);
  SYS(listen(bound, 5));
  SYS(fcntl(fresh, F_SETFL, 0));
  SYS(connect(fresh, &address.any, address.length));
  SYS(accept(bound, NULL, NULL));
  VictimPass();
}
