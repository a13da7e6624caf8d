// SPDX-License-Identifier: Apache-2.0
//
// A thread in open(2) of a FIFO that has no writer goes on when one comes afterwards.
#include "victim.h"

static void* Opener(void* path) {
  const int fd = (int)SYS(open(path, O_RDONLY));
  char buffer[8] = {0};
  CHECK_EQ(SYS(read(fd, buffer, 8)), 4);
  CHECK_STR(buffer, "fifo");
  return NULL;
}

int main(int argc, char** argv) {
  VictimInit(argc, argv);
  struct VictimThread opener;
  char path[512];
  snprintf(path, sizeof(path), "%s", VictimPath("queue.fifo"));
  SYS(mkfifo(path, 0600));
  VictimSpawn(&opener, Opener, path);
  VictimAwaitBlocked(opener.tid, SYS_openat);
  VictimReady();
  const int writer = (int)SYS(open(path, O_WRONLY));
  SYS(write(writer, "fifo", 4));
  VictimJoin(&opener);
  VictimPass();
}
