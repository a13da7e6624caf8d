// SPDX-License-Identifier: Apache-2.0
//
// A queued datagram of no bytes is a message too, between others and at the end.
#include <sys/socket.h>

#include "victim.h"

int main(int argc, char** argv) {
  VictimInit(argc, argv);
  static const char* const kMessages[] = {"one", "", "two", ""};
  int pair[2];
  SYS(socketpair(AF_UNIX, SOCK_DGRAM, 0, pair));
  for (int i = 0; i < 4; i++) SYS(send(pair[0], kMessages[i], strlen(kMessages[i]), 0));
  VictimReady();
  char buffer[16];
  for (int i = 0; i < 4; i++) {
    memset(buffer, 0, sizeof(buffer));
    CHECK_EQ(SYS(recv(pair[1], buffer, sizeof(buffer) - 1, MSG_DONTWAIT)), strlen(kMessages[i]));
    CHECK_STR(buffer, kMessages[i]);
  }
  CHECK_ERRNO(recv(pair[1], buffer, sizeof(buffer), MSG_DONTWAIT), EAGAIN);
  VictimPass();
}
