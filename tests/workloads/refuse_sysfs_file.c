// SPDX-License-Identifier: Apache-2.0
//
// A file of sysfs is a window on the kernel's state and cannot be captured: refused, and it can still be
// read.
#include "victim.h"

int main(int argc, char** argv) {
  VictimInit(argc, argv);
  const int fd = open("/sys/kernel/uevent_seqnum", O_RDONLY);
  if (fd < 0) VictimSkip("/sys/kernel/uevent_seqnum: %s", strerror(errno));
  VictimReady();
  char text[32];
  CHECK(SYS(read(fd, text, sizeof(text))) > 0, "nothing to read");
  VictimPass();
}
