// SPDX-License-Identifier: Apache-2.0
//
// A thread in accept(2) of a TCP socket takes a connection that is made afterwards.
#include <arpa/inet.h>
#include <sys/socket.h>

#include "victim.h"

static int listener;

static void* Acceptor(void* unused) {
  const int connection = (int)SYS(accept(listener, NULL, NULL));
  SYS(write(connection, "hi", 2));
  SYS(close(connection));
  return unused;
}

int main(int argc, char** argv) {
  VictimInit(argc, argv);
  struct VictimThread acceptor;
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  socklen_t length = sizeof(address);
  listener = (int)SYS(socket(AF_INET, SOCK_STREAM, 0));
  SYS(bind(listener, (struct sockaddr*)&address, length));
  SYS(listen(listener, 5));
  SYS(getsockname(listener, (struct sockaddr*)&address, &length));
  VictimSpawn(&acceptor, Acceptor, NULL);
  VictimAwaitBlocked(acceptor.tid, SYS_accept);
  VictimReady();
  const int client = (int)SYS(socket(AF_INET, SOCK_STREAM, 0));
  SYS(connect(client, (struct sockaddr*)&address, sizeof(address)));
  char buffer[4];
  CHECK_EQ(SYS(read(client, buffer, 4)), 2);
  VictimJoin(&acceptor);
  VictimPass();
}
