// SPDX-License-Identifier: Apache-2.0
//
// Established TCP connections work on, or, in a restored process, are closed: end of file, and errors on
// writing.
#include "inet.inc"
#include "victim.h"

int main(int argc, char** argv) {
  VictimInit(argc, argv);
  const int listener = (int)SYS(socket(AF_INET, SOCK_STREAM, 0));
  const struct InetAddress address = BindLoopback(listener, AF_INET);
  SYS(listen(listener, 5));
  const int client = (int)SYS(socket(AF_INET, SOCK_STREAM, 0));
  SYS(connect(client, &address.any, address.length));
  const int server = (int)SYS(accept(listener, NULL, NULL));
  SYS(close(listener));
  signal(SIGPIPE, SIG_IGN);
  char buffer[8];
  SYS(write(client, "a", 1));
  CHECK_EQ(SYS(read(server, buffer, 8)), 1);
  VictimReady();
  const int ends[2] = {client, server};
  if (!VictimRestored()) {
    SYS(write(client, "b", 1));
    CHECK_EQ(SYS(read(server, buffer, 8)), 1);
    VictimPass();
  }
  for (int i = 0; i < 2; i++) {
    const ssize_t count = recv(ends[i], buffer, 8, MSG_DONTWAIT);
    CHECK(count == 0 || (count < 0 && errno == ECONNRESET), "read gave %zd (%s)", count, strerror(errno));
    CHECK_EQ(write(ends[i], "x", 1), -1);
    CHECK(errno == ECONNRESET || errno == EPIPE, "write: %s", strerror(errno));
  }
  VictimPass();
}
