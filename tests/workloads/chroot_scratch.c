// SPDX-License-Identifier: Apache-2.0
//
// A process whose root is the scratch directory: names are looked up there and nowhere else.
#include "victim.h"

int main(int argc, char** argv) {
  VictimInit(argc, argv);
  VictimNeedRoot();
  SYS(mkdir(VictimPath("sub"), 0755));
  SYS(close(VictimFile("sub/inside", 100, 81)));
  const int file = (int)SYS(open(VictimPath("sub/inside"), O_RDONLY));
  SYS(chroot(victim_scratch));
  SYS(chdir("/sub"));
  victim_scratch = "";
  VictimReady();
  CHECK_ERRNO(access("/proc/self", F_OK), ENOENT);
  SYS(access("/sub/inside", F_OK));
  SYS(access("inside", F_OK));
  char path[64], content[100];
  CHECK(getcwd(path, sizeof(path)) != NULL, "getcwd: %s", strerror(errno));
  CHECK_STR(path, "/sub");
  struct stat root, up;
  SYS(stat("/", &root));
  SYS(stat("/..", &up));
  CHECK_EQ(root.st_ino, up.st_ino);
  CHECK_EQ(read(file, content, 100), 100);
  VictimVerify(content, 100, 81);
  VictimPass();
}
