// SPDX-License-Identifier: Apache-2.0
//
// Open files of /proc: the process's own and the system's. They work, or the capture says no.
#include "victim.h"

int main(int argc, char** argv) {
  VictimInit(argc, argv);
  const int status = (int)SYS(open("/proc/self/status", O_RDONLY));
  const int uptime = (int)SYS(open("/proc/uptime", O_RDONLY));
  char text[4096];
  CHECK(read(status, text, 5) == 5, "status: %s", strerror(errno));
  VictimReady();
  CHECK_EQ(lseek(status, 0, SEEK_CUR), 5);
  SYS(lseek(status, 0, SEEK_SET));
  const ssize_t length = SYS(read(status, text, sizeof(text) - 1));
  text[length] = 0;
  char wanted[32];
  snprintf(wanted, sizeof(wanted), "\nPid:\t%d\n", getpid());
  CHECK(strstr(text, wanted) != NULL, "status is not of this process");
  CHECK(SYS(read(uptime, text, 64)) > 3, "uptime is empty");
  VictimPass();
}
