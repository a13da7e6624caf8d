// SPDX-License-Identifier: Apache-2.0
//
// An inotify watch on a file that has no name any more cannot be captured: refused, and it watches on.
#include "inotify.inc"

int main(int argc, char** argv) {
  VictimInit(argc, argv);
  const int file = VictimFile("watched", 10, 0);
  const int fd = (int)SYS(inotify_init1(IN_NONBLOCK));
  const int watch = (int)SYS(inotify_add_watch(fd, VictimPath("watched"), IN_MODIFY));
  SYS(unlink(VictimPath("watched")));
  VictimReady();
  SYS(write(file, "x", 1));
  Expect(fd, watch, IN_MODIFY, "");
  VictimPass();
}
