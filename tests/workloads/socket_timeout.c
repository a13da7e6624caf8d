// SPDX-License-Identifier: Apache-2.0
//
// A thread in recv with SO_RCVTIMEO: EAGAIN after the time, or EINTR, which such sockets give after SIGCONT.
#include <sys/socket.h>
#include <sys/time.h>

#include "victim.h"

static int pair[2];

static void* Receiver(void* unused) {
  const int64_t start = VictimNow(CLOCK_MONOTONIC);
  char byte;
  const ssize_t count = recv(pair[0], &byte, 1, 0);
  CHECK_EQ(count, -1);
  CHECK(errno == EAGAIN || errno == EINTR, "recv: %s", strerror(errno));
  if (errno == EAGAIN) CHECK(VictimNow(CLOCK_MONOTONIC) - start >= 1400000000LL, "timed out early");
  return unused;
}

int main(int argc, char** argv) {
  VictimInit(argc, argv);
  struct VictimThread receiver;
  struct timeval time = {1, 500000}, after = {0, 0};
  socklen_t length = sizeof(after);
  SYS(socketpair(AF_UNIX, SOCK_STREAM, 0, pair));
  SYS(setsockopt(pair[0], SOL_SOCKET, SO_RCVTIMEO, &time, sizeof(time)));
  VictimSpawn(&receiver, Receiver, NULL);
  VictimAwaitBlocked(receiver.tid, SYS_recvfrom);
  VictimReady();
  SYS(getsockopt(pair[0], SOL_SOCKET, SO_RCVTIMEO, &after, &length));
  CHECK_EQ(after.tv_sec, 1);
  CHECK_EQ(after.tv_usec, 500000);
  VictimJoin(&receiver);
  VictimPass();
}
