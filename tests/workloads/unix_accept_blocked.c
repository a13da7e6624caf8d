// SPDX-License-Identifier: Apache-2.0
//
// A thread in accept(2) of a unix socket takes a connection that is made afterwards.
#include <sys/socket.h>
#include <sys/un.h>

#include "victim.h"

static int listener;

static void* Acceptor(void* unused) {
  const int connection = (int)SYS(accept(listener, NULL, NULL));
  SYS(write(connection, "hi", 2));
  return unused;
}

int main(int argc, char** argv) {
  VictimInit(argc, argv);
  struct VictimThread acceptor;
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  VictimEnterScratch();
  strcpy(address.sun_path, "accept.sock");
  listener = (int)SYS(socket(AF_UNIX, SOCK_STREAM, 0));
  SYS(bind(listener, (struct sockaddr*)&address, sizeof(address)));
  SYS(listen(listener, 5));
  VictimSpawn(&acceptor, Acceptor, NULL);
  VictimAwaitBlocked(acceptor.tid, SYS_accept);
  VictimReady();
  const int client = (int)SYS(socket(AF_UNIX, SOCK_STREAM, 0));
  SYS(connect(client, (struct sockaddr*)&address, sizeof(address)));
  char buffer[4];
  CHECK_EQ(SYS(read(client, buffer, 4)), 2);
  VictimJoin(&acceptor);
  VictimPass();
}
