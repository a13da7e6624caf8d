// SPDX-License-Identifier: Apache-2.0
//
// A lease on a file cannot be captured: refused, and it is still held.
#include "victim.h"

int main(int argc, char** argv) {
  VictimInit(argc, argv);
  SYS(close(VictimFile("leased", 100, 1)));
  const int fd = (int)SYS(open(VictimPath("leased"), O_RDONLY));
  if (fcntl(fd, F_SETLEASE, F_RDLCK) < 0) VictimSkip("F_SETLEASE: %s", strerror(errno));
  VictimReady();
  CHECK_EQ(SYS(fcntl(fd, F_GETLEASE)), F_RDLCK);
  VictimPass();
}
