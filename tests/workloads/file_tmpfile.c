// SPDX-License-Identifier: Apache-2.0
//
// A file made with O_TMPFILE never had a name.
#include "victim.h"

int main(int argc, char** argv) {
  VictimInit(argc, argv);
  const int fd = open(victim_scratch, O_TMPFILE | O_RDWR, 0640);
  if (fd < 0) VictimSkip("O_TMPFILE: %s", strerror(errno));
  char content[10000];
  VictimFill(content, sizeof(content), 73);
  CHECK_EQ(write(fd, content, sizeof(content)), sizeof(content));
  VictimReady();
  CHECK_EQ(lseek(fd, 0, SEEK_CUR), sizeof(content));
  CHECK_EQ(pread(fd, content, sizeof(content), 0), sizeof(content));
  VictimVerify(content, sizeof(content), 73);
  struct stat status;
  SYS(fstat(fd, &status));
  CHECK_EQ(status.st_mode & 07777, 0640);
  VictimPass();
}
