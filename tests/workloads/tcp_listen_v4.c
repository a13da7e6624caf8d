// SPDX-License-Identifier: Apache-2.0
//
// A listening TCP socket: address, options, backlog; clients can connect afterwards.
#include <netinet/tcp.h>

#include "inet.inc"
#include "victim.h"

int main(int argc, char** argv) {
  VictimInit(argc, argv);
  const int listener = (int)SYS(socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  static const struct InetOption kOptions[] = {
      {SOL_SOCKET, SO_REUSEADDR, 1},         {SOL_SOCKET, SO_KEEPALIVE, 1},   {IPPROTO_TCP, TCP_NODELAY, 1},
      {IPPROTO_TCP, TCP_DEFER_ACCEPT, 3},    {IPPROTO_TCP, TCP_KEEPIDLE, 33}, {IPPROTO_TCP, TCP_KEEPINTVL, 7},
      {IPPROTO_TCP, TCP_KEEPCNT, 4},         {IPPROTO_TCP, TCP_SYNCNT, 3},    {SOL_SOCKET, SO_RCVBUF, 40000},
      {SOL_SOCKET, SO_SNDBUF, 50000},        {IPPROTO_IP, IP_TOS, 0x10},      {IPPROTO_TCP, TCP_FASTOPEN, 9},
      {IPPROTO_TCP, TCP_USER_TIMEOUT, 9000}, {IPPROTO_TCP, TCP_MAXSEG, 1000}};
  enum { kCount = sizeof(kOptions) / sizeof(kOptions[0]) };
  int values[kCount];
  const struct InetAddress address = BindLoopback(listener, AF_INET);
  for (int i = 0; i < kCount; i++) values[i] = SetOption(listener, kOptions[i]);
  SYS(listen(listener, 17));
  VictimReady();
  for (int i = 0; i < kCount; i++) CheckOption(listener, kOptions[i], values[i]);
  CheckBound(listener, &address);
  CHECK_EQ(GetOption(listener, SOL_SOCKET, SO_ACCEPTCONN), 1);
  struct tcp_info info;
  socklen_t length = sizeof(info);
  SYS(getsockopt(listener, IPPROTO_TCP, TCP_INFO, &info, &length));
  CHECK_EQ(info.tcpi_sacked, 17);  // the backlog of a listening socket
  CHECK_EQ(fcntl(listener, F_GETFL) & O_NONBLOCK, O_NONBLOCK);
  CHECK_EQ(fcntl(listener, F_GETFD), FD_CLOEXEC);
  SYS(fcntl(listener, F_SETFL, 0));
  CheckConnects(listener, &address);
  VictimPass();
}
