// SPDX-License-Identifier: Apache-2.0
//
// A listening unix socket with an abstract address that has a zero byte inside.
#include <sys/socket.h>
#include <sys/un.h>

#include "victim.h"

int main(int argc, char** argv) {
  VictimInit(argc, argv);
  struct sockaddr_un address = {.sun_family = AF_UNIX}, now;
  snprintf(address.sun_path + 1, 60, "moult-victim-%d-%lld", getpid(), (long long)VictimNow(CLOCK_REALTIME));
  const socklen_t length = offsetof(struct sockaddr_un, sun_path) + 80;
  address.sun_path[79] = 'e';
  const int listener = (int)SYS(socket(AF_UNIX, SOCK_SEQPACKET, 0));
  SYS(bind(listener, (struct sockaddr*)&address, length));
  SYS(listen(listener, 10));
  VictimReady();
  socklen_t now_length = sizeof(now);
  SYS(getsockname(listener, (struct sockaddr*)&now, &now_length));
  CHECK_EQ(now_length, length);
  CHECK(memcmp(&now, &address, length) == 0, "the address changed");
  const int client = (int)SYS(socket(AF_UNIX, SOCK_SEQPACKET, 0));
  SYS(connect(client, (struct sockaddr*)&address, length));
  const int server = (int)SYS(accept(listener, NULL, NULL));
  char buffer[8];
  SYS(write(client, "hello", 5));
  CHECK_EQ(SYS(read(server, buffer, 8)), 5);
  VictimPass();
}
