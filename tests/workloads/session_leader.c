// SPDX-License-Identifier: Apache-2.0
//
// A process that leads its session and process group still does.
#include "victim.h"

int main(int argc, char** argv) {
  VictimInit(argc, argv);
  if (getsid(0) != getpid() && setsid() < 0) VictimSkip("leads a process group of another session");
  VictimReady();
  CHECK_EQ(getsid(0), getpid());
  CHECK_EQ(getpgrp(), getpid());
  CHECK_ERRNO(setsid(), EPERM);
  CHECK_ERRNO(open("/dev/tty", O_RDWR), ENXIO);  // and has no terminal
  VictimPass();
}
