// SPDX-License-Identifier: Apache-2.0
//
// A private mapping of a sparse file: holes are zero, and the file does not grow blocks.
#include <linux/magic.h>
#include <sys/vfs.h>

#include "victim.h"

int main(int argc, char** argv) {
  VictimInit(argc, argv);
  const int fd = VictimFile("sparse", 0, 0);
  struct statfs system;
  SYS(fstatfs(fd, &system));
  if (system.f_type == TMPFS_MAGIC) VictimSkip("tmpfs fills holes that are read through a mapping");
  SYS(ftruncate(fd, 1000 * kPage));
  CHECK_EQ(pwrite(fd, "tail", 4, 999 * kPage), 4);
  struct stat before, after;
  SYS(fsync(fd));
  SYS(fstat(fd, &before));
  char* map = VictimMap(NULL, 1000 * kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
  VictimFill(map + 500 * kPage, kPage, 52);
  VictimReady();
  VictimVerify(map + 500 * kPage, kPage, 52);
  VictimVerifyZero(map, kPage);
  CHECK(memcmp(map + 999 * kPage, "tail", 4) == 0, "tail is lost");
  SYS(fstat(fd, &after));
  CHECK_EQ(after.st_blocks, before.st_blocks);
  VictimPass();
}
