// SPDX-License-Identifier: Apache-2.0
//
// Threads in read and recvmsg of unix sockets get what is sent afterwards.
#include <sys/socket.h>

#include "victim.h"

static int stream[2], packets[2];

static void* Reader(void* unused) {
  char buffer[16] = {0};
  CHECK_EQ(SYS(read(stream[0], buffer, sizeof(buffer))), 3);
  CHECK_STR(buffer, "abc");
  return unused;
}

static void* Receiver(void* unused) {
  char first[4] = {0}, second[16] = {0};
  struct iovec parts[] = {{first, 3}, {second, 15}};
  struct msghdr message = {.msg_iov = parts, .msg_iovlen = 2};
  CHECK_EQ(SYS(recvmsg(packets[0], &message, 0)), 6);
  CHECK_STR(first, "def");
  CHECK_STR(second, "ghi");
  return unused;
}

int main(int argc, char** argv) {
  VictimInit(argc, argv);
  struct VictimThread reader, receiver;
  SYS(socketpair(AF_UNIX, SOCK_STREAM, 0, stream));
  SYS(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, packets));
  VictimSpawn(&reader, Reader, NULL);
  VictimSpawn(&receiver, Receiver, NULL);
  VictimAwaitBlocked(reader.tid, SYS_read);
  VictimAwaitBlocked(receiver.tid, SYS_recvmsg);
  VictimReady();
  SYS(write(stream[1], "abc", 3));
  SYS(write(packets[1], "defghi", 6));
  VictimJoin(&reader);
  VictimJoin(&receiver);
  VictimPass();
}
