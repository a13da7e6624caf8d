// SPDX-License-Identifier: Apache-2.0
//
// A pidfd cannot be captured: refused, and it still names the process.
#include "victim.h"

int main(int argc, char** argv) {
  VictimInit(argc, argv);
  const int fd = (int)syscall(SYS_pidfd_open, getpid(), 0);
  if (fd < 0) VictimSkip("pidfd_open: %s", strerror(errno));
  VictimReady();
  SYS(syscall(SYS_pidfd_send_signal, fd, 0, NULL, 0));
  VictimPass();
}
