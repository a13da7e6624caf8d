// SPDX-License-Identifier: Apache-2.0
//
// Bound UDP sockets of IPv6 with options, one of them connected to the other.
#include "inet.inc"
#include "victim.h"

int main(int argc, char** argv) {
  VictimInit(argc, argv);
  const int receiver = socket(AF_INET6, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  if (receiver < 0) VictimSkip("no IPv6: %s", strerror(errno));
  const int sender = (int)SYS(socket(AF_INET6, SOCK_DGRAM, 0));
  static const struct InetOption kOptions[] = {
      {IPPROTO_IPV6, IPV6_V6ONLY, 1},      {IPPROTO_IPV6, IPV6_UNICAST_HOPS, 33},
      {IPPROTO_IPV6, IPV6_RECVPKTINFO, 1}, {IPPROTO_IPV6, IPV6_RECVTCLASS, 1},
      {IPPROTO_IPV6, IPV6_TCLASS, 0x20},   {IPPROTO_IPV6, IPV6_MULTICAST_LOOP, 0},
      {IPPROTO_IPV6, IPV6_RECVHOPLIMIT, 1}};
  enum { kCount = sizeof(kOptions) / sizeof(kOptions[0]) };
  int values[kCount];
  for (int i = 0; i < kCount; i++) values[i] = SetOption(receiver, kOptions[i]);
  const struct InetAddress to = BindLoopback(receiver, AF_INET6), from = BindLoopback(sender, AF_INET6);
  SYS(connect(sender, &to.any, to.length));
  VictimReady();
  for (int i = 0; i < kCount; i++) CheckOption(receiver, kOptions[i], values[i]);
  CheckBound(receiver, &to);
  CheckBound(sender, &from);
  struct InetAddress peer = {.length = sizeof(peer.storage)};
  SYS(getpeername(sender, &peer.any, &peer.length));
  CHECK(peer.length == to.length && memcmp(&peer, &to, to.length) == 0, "the peer changed");
  SYS(send(sender, "hello", 5, 0));
  char buffer[16];
  peer.length = sizeof(peer.storage);
  CHECK_EQ(SYS(recvfrom(receiver, buffer, 16, 0, &peer.any, &peer.length)), 5);
  CHECK_EQ(peer.v6.sin6_port, from.v6.sin6_port);
  VictimPass();
}
