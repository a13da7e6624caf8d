// SPDX-License-Identifier: Apache-2.0
//
// A thread that waits in read of an established TCP connection: gets data, or, in a restored process, end of
// file.
#include <semaphore.h>

#include "inet.inc"
#include "victim.h"

static int server;
static sem_t checked;  // a restored reader returns at once, but its thread must still be there to be looked at

static void* Reader(void* unused) {
  char buffer[8];
  (void)unused;
  const ssize_t count = read(server, buffer, 8);
  if (count < 0) CHECK_EQ(errno, ECONNRESET);
  while (sem_wait(&checked) != 0) CHECK_EQ(errno, EINTR);
  return (void*)count;
}

int main(int argc, char** argv) {
  VictimInit(argc, argv);
  SYS(sem_init(&checked, 0, 0));
  struct VictimThread reader;
  const int listener = (int)SYS(socket(AF_INET, SOCK_STREAM, 0));
  const struct InetAddress address = BindLoopback(listener, AF_INET);
  SYS(listen(listener, 5));
  const int client = (int)SYS(socket(AF_INET, SOCK_STREAM, 0));
  SYS(connect(client, &address.any, address.length));
  server = (int)SYS(accept(listener, NULL, NULL));
  SYS(close(listener));
  VictimSpawn(&reader, Reader, NULL);
  VictimAwaitBlocked(reader.tid, SYS_read);
  VictimReady();
  if (!VictimRestored()) SYS(write(client, "xy", 2));
  SYS(sem_post(&checked));
  const intptr_t count = (intptr_t)VictimJoin(&reader);
  if (VictimRestored()) {
    CHECK(count <= 0, "%ld bytes came over a closed connection", (long)count);
  } else {
    CHECK_EQ(count, 2);
  }
  VictimPass();
}
