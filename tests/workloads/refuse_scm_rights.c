// SPDX-License-Identifier: Apache-2.0
//
// A descriptor on its way through a unix socket (SCM_RIGHTS): refused, or else it arrives.
#include <sys/socket.h>

#include "victim.h"

int main(int argc, char** argv) {
  VictimInit(argc, argv);
  int pair[2], got = -1;
  char byte = 'f', content[100];
  union {
    struct cmsghdr header;
    char space[CMSG_SPACE(sizeof(int))];
  } control = {.header = {CMSG_LEN(sizeof(int)), SOL_SOCKET, SCM_RIGHTS}};
  const int file = VictimFile("sent", 100, 92);
  struct iovec part = {&byte, 1};
  struct msghdr message = {
      .msg_iov = &part, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof(control)};
  memcpy(CMSG_DATA(&control.header), &file, sizeof(file));
  SYS(socketpair(AF_UNIX, SOCK_STREAM, 0, pair));
  SYS(sendmsg(pair[0], &message, 0));
  SYS(close(file));
  memset(&control, 0, sizeof(control));
  VictimReady();
  CHECK_EQ(SYS(recvmsg(pair[1], &message, 0)), 1);
  CHECK_EQ(control.header.cmsg_type, SCM_RIGHTS);
  memcpy(&got, CMSG_DATA(&control.header), sizeof(got));
  CHECK_EQ(pread(got, content, 100, 0), 100);
  VictimVerify(content, 100, 92);
  VictimPass();
}
