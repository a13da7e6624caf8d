// SPDX-License-Identifier: Apache-2.0
//
// A bound unix datagram socket with a datagram from a named sender, and a socket connected to it.
#include <sys/socket.h>
#include <sys/un.h>

#include "victim.h"

static int Bound(const char* path) {
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  strcpy(address.sun_path, path);
  const int fd = (int)SYS(socket(AF_UNIX, SOCK_DGRAM, 0));
  SYS(bind(fd, (struct sockaddr*)&address, sizeof(address)));
  return fd;
}

int main(int argc, char** argv) {
  VictimInit(argc, argv);
  VictimEnterScratch();
  const int receiver = Bound("receiver.sock"), sender = Bound("sender.sock");
  struct sockaddr_un address = {.sun_family = AF_UNIX, .sun_path = "receiver.sock"}, from;
  SYS(connect(sender, (struct sockaddr*)&address, sizeof(address)));
  SYS(send(sender, "datagram", 8, 0));
  VictimReady();
  char buffer[16] = {0};
  socklen_t length = sizeof(from);
  CHECK_EQ(SYS(recvfrom(receiver, buffer, 16, MSG_DONTWAIT, (struct sockaddr*)&from, &length)), 8);
  CHECK_STR(buffer, "datagram");
  CHECK_STR(from.sun_path, "sender.sock");
  SYS(send(sender, "again", 5, 0));
  CHECK_EQ(SYS(recv(receiver, buffer, 16, MSG_DONTWAIT)), 5);
  length = sizeof(from);
  SYS(getpeername(sender, (struct sockaddr*)&from, &length));
  CHECK_STR(from.sun_path, "receiver.sock");
  VictimPass();
}
