// SPDX-License-Identifier: Apache-2.0
//
// A pseudo-terminal cannot be captured: refused, and it works on.
#include "victim.h"

int main(int argc, char** argv) {
  VictimInit(argc, argv);
  const int master = posix_openpt(O_RDWR | O_NOCTTY);
  if (master < 0) VictimSkip("posix_openpt: %s", strerror(errno));
  SYS(grantpt(master));
  SYS(unlockpt(master));
  const int slave = (int)SYS(open(ptsname(master), O_RDWR | O_NOCTTY));
  VictimReady();
  SYS(write(master, "line\n", 5));
  char text[16] = {0};
  CHECK_EQ(SYS(read(slave, text, 16)), 5);
  CHECK_STR(text, "line\n");
  VictimPass();
}
