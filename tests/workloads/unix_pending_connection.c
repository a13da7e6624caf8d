// SPDX-License-Identifier: Apache-2.0
//
// A connection that waits to be accepted, with data already sent over it, inside one process.
#include <sys/socket.h>
#include <sys/un.h>

#include "victim.h"

int main(int argc, char** argv) {
  VictimInit(argc, argv);
  VictimEnterScratch();
  struct sockaddr_un address = {.sun_family = AF_UNIX, .sun_path = "pending.sock"};
  const int listener = (int)SYS(socket(AF_UNIX, SOCK_STREAM, 0));
  SYS(bind(listener, (struct sockaddr*)&address, sizeof(address)));
  SYS(listen(listener, 10));
  const int client = (int)SYS(socket(AF_UNIX, SOCK_STREAM, 0));
  SYS(connect(client, (struct sockaddr*)&address, sizeof(address)));
  SYS(write(client, "early", 5));
  VictimReady();
  const int server = (int)SYS(accept(listener, NULL, NULL));
  char buffer[8] = {0};
  CHECK_EQ(SYS(read(server, buffer, 8)), 5);
  CHECK_STR(buffer, "early");
  SYS(write(server, "late", 4));
  CHECK_EQ(SYS(read(client, buffer, 8)), 4);
  VictimPass();
}
