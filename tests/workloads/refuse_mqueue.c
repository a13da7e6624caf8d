// SPDX-License-Identifier: Apache-2.0
//
// A POSIX message queue cannot be captured: refused, and its messages stay.
#include <mqueue.h>

#include "victim.h"

int main(int argc, char** argv) {
  VictimInit(argc, argv);
  char name[64], text[64] = {0};
  snprintf(name, sizeof(name), "/moult-victim-%d", getpid());
  struct mq_attr attributes = {.mq_maxmsg = 4, .mq_msgsize = 64};
  const mqd_t queue = mq_open(name, O_RDWR | O_CREAT | O_EXCL, 0600, &attributes);
  if (queue == (mqd_t)-1) VictimSkip("mq_open: %s", strerror(errno));
  mq_unlink(name);
  SYS(mq_send(queue, "message", 7, 1));
  VictimReady();
  CHECK_EQ(SYS(mq_receive(queue, text, 64, NULL)), 7);
  CHECK_STR(text, "message");
  VictimPass();
}
