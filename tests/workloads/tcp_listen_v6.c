// SPDX-License-Identifier: Apache-2.0
//
// Listening TCP sockets of IPv6: one for IPv6 only, one for both (dual stack).
#include "inet.inc"
#include "victim.h"

int main(int argc, char** argv) {
  VictimInit(argc, argv);
  const int only = socket(AF_INET6, SOCK_STREAM, 0);
  if (only < 0) VictimSkip("no IPv6: %s", strerror(errno));
  const int dual = (int)SYS(socket(AF_INET6, SOCK_STREAM, 0));
  SYS(setsockopt(only, IPPROTO_IPV6, IPV6_V6ONLY, &(int){1}, sizeof(int)));
  SYS(setsockopt(dual, IPPROTO_IPV6, IPV6_V6ONLY, &(int){0}, sizeof(int)));
  struct sockaddr_in6 any = {.sin6_family = AF_INET6};  // all zero: any address, any port
  if (bind(only,
           (struct sockaddr*)&(struct sockaddr_in6){.sin6_family = AF_INET6, .sin6_addr = in6addr_loopback},
           sizeof(any)) != 0) {
    VictimSkip("no ::1: %s", strerror(errno));
  }
  SYS(bind(dual, (struct sockaddr*)&any, sizeof(any)));
  SYS(listen(only, 5));
  SYS(listen(dual, 5));
  const struct InetAddress only_address = BoundTo(only);
  struct InetAddress dual_address = BoundTo(dual);
  VictimReady();
  CheckBound(only, &only_address);
  CheckBound(dual, &dual_address);
  CHECK_EQ(GetOption(only, IPPROTO_IPV6, IPV6_V6ONLY), 1);
  CHECK_EQ(GetOption(dual, IPPROTO_IPV6, IPV6_V6ONLY), 0);
  CheckConnects(only, &only_address);
  const struct InetAddress v4 = {.v4 = {.sin_family = AF_INET,
                                        .sin_port = dual_address.v6.sin6_port,
                                        .sin_addr.s_addr = htonl(INADDR_LOOPBACK)},
                                 .length = sizeof(struct sockaddr_in)};
  CheckConnects(dual, &v4);
  VictimPass();
}
