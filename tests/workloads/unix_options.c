// SPDX-License-Identifier: Apache-2.0
//
// Options of unix sockets: buffer sizes, SO_PASSCRED, time-outs; SO_PEERCRED names this process.
#include <sys/socket.h>
#include <sys/time.h>

#include "victim.h"

static int Option(int fd, int name) {
  int value = -1;
  socklen_t length = sizeof(value);
  SYS(getsockopt(fd, SOL_SOCKET, name, &value, &length));
  return value;
}

int main(int argc, char** argv) {
  VictimInit(argc, argv);
  static const int kNames[] = {SO_SNDBUF, SO_RCVBUF, SO_PASSCRED, SO_PRIORITY, SO_RCVLOWAT, SO_TYPE};
  int pair[2], before[6];
  SYS(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair));
  SYS(setsockopt(pair[0], SOL_SOCKET, SO_SNDBUF, &(int){50000}, sizeof(int)));
  SYS(setsockopt(pair[0], SOL_SOCKET, SO_RCVBUF, &(int){30000}, sizeof(int)));
  SYS(setsockopt(pair[0], SOL_SOCKET, SO_PASSCRED, &(int){1}, sizeof(int)));
  SYS(setsockopt(pair[0], SOL_SOCKET, SO_PRIORITY, &(int){3}, sizeof(int)));
  SYS(setsockopt(pair[0], SOL_SOCKET, SO_SNDTIMEO, &(struct timeval){5, 500000}, sizeof(struct timeval)));
  for (int i = 0; i < 6; i++) before[i] = Option(pair[0], kNames[i]);
  VictimReady();
  for (int i = 0; i < 6; i++) {
    CHECK(Option(pair[0], kNames[i]) == before[i], "option %d is %d, not %d", kNames[i],
          Option(pair[0], kNames[i]), before[i]);
  }
  struct timeval time;
  socklen_t length = sizeof(time);
  SYS(getsockopt(pair[0], SOL_SOCKET, SO_SNDTIMEO, &time, &length));
  CHECK(time.tv_sec == 5 && time.tv_usec == 500000, "SO_SNDTIMEO is %ld.%06ld", time.tv_sec, time.tv_usec);
  struct ucred peer;
  length = sizeof(peer);
  SYS(getsockopt(pair[1], SOL_SOCKET, SO_PEERCRED, &peer, &length));
  CHECK_EQ(peer.pid, getpid());
  CHECK_EQ(peer.uid, geteuid());
  VictimPass();
}
