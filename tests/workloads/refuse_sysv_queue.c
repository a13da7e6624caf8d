// SPDX-License-Identifier: Apache-2.0
//
// A System V message queue with a message of the process: refused, and the message stays.
#include <sys/msg.h>

#include "victim.h"

int main(int argc, char** argv) {
  VictimInit(argc, argv);
  const int queue = (int)SYS(msgget(IPC_PRIVATE, IPC_CREAT | 0600));
  struct {
    long type;
    char text[8];
  } message = {7, "message"};
  SYS(msgsnd(queue, &message, 8, 0));
  VictimReady();
  memset(message.text, 0, 8);
  const long length = msgrcv(queue, &message, 8, 7, IPC_NOWAIT);
  SYS(msgctl(queue, IPC_RMID, NULL));
  CHECK_EQ(length, 8);
  CHECK_STR(message.text, "message");
  VictimPass();
}
