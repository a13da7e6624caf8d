// SPDX-License-Identifier: Apache-2.0
//
// A working directory that was removed.
#include "victim.h"

int main(int argc, char** argv) {
  VictimInit(argc, argv);
  SYS(mkdir(VictimPath("gone"), 0755));
  SYS(chdir(VictimPath("gone")));
  SYS(rmdir(VictimPath("gone")));
  VictimReady();
  char path[512];
  CHECK_ERRNO(syscall(SYS_getcwd, path, sizeof(path)), ENOENT);
  CHECK_ERRNO(open("new", O_WRONLY | O_CREAT, 0600), ENOENT);
  CHECK_ERRNO(access(VictimPath("gone"), F_OK), ENOENT);
  SYS(chdir("/"));
  VictimPass();
}
