// SPDX-License-Identifier: Apache-2.0
//
// A listening unix socket with a path: address, mode of the file, backlog, and clients can connect.
#include <sys/socket.h>
#include <sys/un.h>

#include "victim.h"

int main(int argc, char** argv) {
  VictimInit(argc, argv);
  VictimEnterScratch();
  struct sockaddr_un address = {.sun_family = AF_UNIX, .sun_path = "listen.sock"}, now;
  socklen_t length = sizeof(now);
  const int listener = (int)SYS(socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0));
  SYS(bind(listener, (struct sockaddr*)&address, sizeof(address)));
  SYS(chmod("listen.sock", 0631));
  SYS(listen(listener, 3));
  VictimReady();
  SYS(getsockname(listener, (struct sockaddr*)&now, &length));
  CHECK_STR(now.sun_path, "listen.sock");
  struct stat status;
  SYS(stat("listen.sock", &status));
  CHECK_EQ(status.st_mode & 0777, 0631);
  int option = 0;
  length = sizeof(option);
  SYS(getsockopt(listener, SOL_SOCKET, SO_ACCEPTCONN, &option, &length));
  CHECK_EQ(option, 1);
  CHECK_ERRNO(accept(listener, NULL, NULL), EAGAIN);
  const int client = (int)SYS(socket(AF_UNIX, SOCK_STREAM, 0));
  SYS(connect(client, (struct sockaddr*)&address, sizeof(address)));
  const int server = (int)SYS(accept(listener, NULL, NULL));
  char buffer[8];
  SYS(write(client, "hello", 5));
  CHECK_EQ(SYS(read(server, buffer, 8)), 5);
  VictimPass();
}
