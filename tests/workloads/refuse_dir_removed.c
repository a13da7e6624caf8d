// SPDX-License-Identifier: Apache-2.0
//
// A descriptor of a directory that was removed cannot be captured: refused, and it stays open.
#include "victim.h"

int main(int argc, char** argv) {
  VictimInit(argc, argv);
  SYS(mkdir(VictimPath("gone"), 0755));
  const int fd = (int)SYS(open(VictimPath("gone"), O_RDONLY | O_DIRECTORY));
  SYS(rmdir(VictimPath("gone")));
  VictimReady();
  struct stat info;
  SYS(fstat(fd, &info));
  CHECK_EQ(info.st_nlink, 0);
  CHECK(S_ISDIR(info.st_mode), "mode is %#o", info.st_mode);
  VictimPass();
}
