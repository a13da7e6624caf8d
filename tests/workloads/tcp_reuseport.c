// SPDX-License-Identifier: Apache-2.0
//
// Two listening sockets share a port with SO_REUSEPORT; so can copies of the whole process.
#include "inet.inc"
#include "victim.h"

int main(int argc, char** argv) {
  VictimInit(argc, argv);
  int listeners[2];
  struct InetAddress address = {.length = 0};
  for (int i = 0; i < 2; i++) {
    listeners[i] = (int)SYS(socket(AF_INET, SOCK_STREAM, 0));
    SYS(setsockopt(listeners[i], SOL_SOCKET, SO_REUSEPORT, &(int){1}, sizeof(int)));
    if (i == 0) address = BindLoopback(listeners[0], AF_INET);
    if (i == 1) SYS(bind(listeners[1], &address.any, address.length));
    SYS(listen(listeners[i], 5));
  }
  VictimReady();
  // No connection is made: the kernel may give it to another copy.
  for (int i = 0; i < 2; i++) {
    CHECK_EQ(GetOption(listeners[i], SOL_SOCKET, SO_REUSEPORT), 1);
    CHECK_EQ(GetOption(listeners[i], SOL_SOCKET, SO_ACCEPTCONN), 1);
    CheckBound(listeners[i], &address);
  }
  VictimPass();
}
