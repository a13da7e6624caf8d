// SPDX-License-Identifier: Apache-2.0
//
// Bound UDP sockets with options, one of them connected to the other.
#include "inet.inc"
#include "victim.h"

int main(int argc, char** argv) {
  VictimInit(argc, argv);
  const int receiver = (int)SYS(socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  const int sender = (int)SYS(socket(AF_INET, SOCK_DGRAM, 0));
  const struct InetOption options[] = {{SOL_SOCKET, SO_BROADCAST, 1},
                                       {SOL_SOCKET, SO_RCVBUF, 60000},
                                       {IPPROTO_IP, IP_TTL, 33},
                                       {IPPROTO_IP, IP_PKTINFO, 1},
                                       {IPPROTO_IP, IP_RECVTOS, 1},
                                       {SOL_SOCKET, SO_REUSEADDR, 1},
                                       {IPPROTO_IP, IP_MULTICAST_IF, (int)htonl(INADDR_LOOPBACK)}};
  enum { kCount = sizeof(options) / sizeof(options[0]) };
  int values[kCount];
  for (int i = 0; i < kCount; i++) values[i] = SetOption(receiver, options[i]);
  CHECK_EQ(values[kCount - 1], (int)htonl(INADDR_LOOPBACK));
  const struct InetAddress to = BindLoopback(receiver, AF_INET), from = BindLoopback(sender, AF_INET);
  SYS(connect(sender, &to.any, to.length));
  VictimReady();
  for (int i = 0; i < kCount; i++) CheckOption(receiver, options[i], values[i]);
  CheckBound(receiver, &to);
  CheckBound(sender, &from);
  struct InetAddress peer = {.length = sizeof(peer.storage)};
  SYS(getpeername(sender, &peer.any, &peer.length));
  CHECK(peer.length == to.length && memcmp(&peer, &to, to.length) == 0, "the peer changed");
  SYS(send(sender, "hello", 5, 0));
  char buffer[16];
  peer.length = sizeof(peer.storage);
  CHECK_EQ(SYS(recvfrom(receiver, buffer, 16, 0, &peer.any, &peer.length)), 5);
  CHECK_EQ(peer.v4.sin_port, from.v4.sin_port);
  VictimPass();
}
