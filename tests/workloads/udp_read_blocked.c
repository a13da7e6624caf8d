// SPDX-License-Identifier: Apache-2.0
//
// A thread in recvfrom of a UDP socket of IPv6 gets a datagram that is sent afterwards.
#include "inet.inc"
#include "victim.h"

static int receiver;

static void* Receiver(void* unused) {
  char buffer[16];
  CHECK_EQ(SYS(recvfrom(receiver, buffer, 16, 0, NULL, NULL)), 4);
  return unused;
}

int main(int argc, char** argv) {
  VictimInit(argc, argv);
  struct VictimThread thread;
  receiver = socket(AF_INET6, SOCK_DGRAM, 0);
  if (receiver < 0) VictimSkip("no IPv6: %s", strerror(errno));
  const struct InetAddress to = BindLoopback(receiver, AF_INET6);
  VictimSpawn(&thread, Receiver, NULL);
  VictimAwaitBlocked(thread.tid, SYS_recvfrom);
  VictimReady();
  const int sender = (int)SYS(socket(AF_INET6, SOCK_DGRAM, 0));
  SYS(sendto(sender, "late", 4, 0, &to.any, to.length));
  VictimJoin(&thread);
  VictimPass();
}
