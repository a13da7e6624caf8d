// SPDX-License-Identifier: Apache-2.0
//
// An open file whose name leads to another file by now, while the file itself has another name: refused.
#include "victim.h"

int main(int argc, char** argv) {
  VictimInit(argc, argv);
  const int fd = VictimFile("file", 100, 5);
  SYS(link(VictimPath("file"), VictimPath("other")));
  SYS(unlink(VictimPath("file")));
  SYS(close(VictimFile("file", 100, 6)));
  VictimReady();
  char content[100];
  CHECK_EQ(SYS(pread(fd, content, 100, 0)), 100);
  VictimVerify(content, 100, 5);
  VictimPass();
}
