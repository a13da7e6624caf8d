// SPDX-License-Identifier: Apache-2.0
//
// An io_uring cannot be captured: refused, and it works on.
#include <linux/io_uring.h>

#include "victim.h"

int main(int argc, char** argv) {
  VictimInit(argc, argv);
  struct io_uring_params parameters = {0};
  const int ring = (int)syscall(SYS_io_uring_setup, 4, &parameters);
  if (ring < 0) VictimSkip("io_uring_setup: %s", strerror(errno));
  VictimReady();
  CHECK_EQ(SYS(syscall(SYS_io_uring_enter, ring, 0, 0, 0, NULL, 0)), 0);
  VictimPass();
}
