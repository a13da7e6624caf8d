// SPDX-License-Identifier: Apache-2.0
//
// A stream pair with as much queued as fits: every byte, in order.
#include <sys/socket.h>

#include "victim.h"

int main(int argc, char** argv) {
  VictimInit(argc, argv);
  int pair[2];
  static char data[1 << 20], got[1 << 20];
  VictimFill(data, sizeof(data), 80);
  SYS(socketpair(AF_UNIX, SOCK_STREAM, 0, pair));
  size_t sent = 0;
  ssize_t count;
  while ((count = send(pair[0], data + sent, 3000, MSG_DONTWAIT)) > 0) sent += (size_t)count;
  CHECK(sent > 50000, "only %zu bytes fitted", sent);
  VictimReady();
  size_t done = 0;
  while ((count = recv(pair[1], got + done, 10000, MSG_DONTWAIT)) > 0) done += (size_t)count;
  CHECK_EQ(done, sent);
  CHECK(memcmp(data, got, sent) == 0, "queued data changed");
  VictimPass();
}
