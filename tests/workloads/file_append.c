// SPDX-License-Identifier: Apache-2.0
//
// O_APPEND stays in force: writes go to the end whatever the position is.
#include "victim.h"

int main(int argc, char** argv) {
  VictimInit(argc, argv);
  SYS(close(VictimFile("append", 1000, 70)));
  const int fd = (int)SYS(open(VictimPath("append"), O_WRONLY | O_APPEND));
  SYS(write(fd, "one", 3));
  SYS(lseek(fd, 10, SEEK_SET));
  VictimReady();
  CHECK_EQ(fcntl(fd, F_GETFL) & (O_ACCMODE | O_APPEND), O_WRONLY | O_APPEND);
  CHECK_EQ(lseek(fd, 0, SEEK_CUR), 10);
  SYS(write(fd, "two", 3));
  CHECK_EQ(lseek(fd, 0, SEEK_CUR), 1006);
  char text[2000];
  CHECK_EQ(VictimSlurp(VictimPath("append"), text, sizeof(text)), 1006);
  CHECK_STR(text + 1000, "onetwo");
  VictimVerify(text, 1000, 70);
  VictimPass();
}
