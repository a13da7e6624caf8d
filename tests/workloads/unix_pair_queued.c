// SPDX-License-Identifier: Apache-2.0
//
// Connected unix sockets of the three types with data queued both ways; boundaries are kept.
#include <sys/socket.h>

#include "victim.h"

static void ExpectRead(int fd, const char* wanted) {
  char buffer[64] = {0};
  CHECK_EQ(SYS(recv(fd, buffer, sizeof(buffer) - 1, MSG_DONTWAIT)), strlen(wanted));
  CHECK_STR(buffer, wanted);
}

int main(int argc, char** argv) {
  VictimInit(argc, argv);
  static const int kTypes[] = {SOCK_STREAM, SOCK_DGRAM, SOCK_SEQPACKET};
  int pairs[3][2];
  for (int i = 0; i < 3; i++) {
    SYS(socketpair(AF_UNIX, kTypes[i] | (i == 1 ? SOCK_NONBLOCK | SOCK_CLOEXEC : 0), 0, pairs[i]));
    SYS(write(pairs[i][0], "one", 3));
    SYS(write(pairs[i][0], "three", 5));
    SYS(write(pairs[i][1], "back", 4));
  }
  VictimReady();
  ExpectRead(pairs[0][1], "onethree");
  ExpectRead(pairs[0][0], "back");
  for (int i = 1; i < 3; i++) {
    ExpectRead(pairs[i][1], "one");
    ExpectRead(pairs[i][1], "three");
    ExpectRead(pairs[i][0], "back");
  }
  char byte;
  for (int i = 0; i < 3; i++) {
    CHECK_ERRNO(recv(pairs[i][1], &byte, 1, MSG_DONTWAIT), EAGAIN);
    SYS(write(pairs[i][0], "after", 5));
    ExpectRead(pairs[i][1], "after");
  }
  CHECK_EQ(fcntl(pairs[1][0], F_GETFL) & O_NONBLOCK, O_NONBLOCK);
  CHECK_EQ(fcntl(pairs[1][1], F_GETFD), FD_CLOEXEC);
  VictimPass();
}
