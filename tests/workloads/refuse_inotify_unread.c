// SPDX-License-Identifier: Apache-2.0
//
// inotify: events that were not read cannot be saved. The dump says to try again, and leaves them there.
#include "inotify.inc"

int main(int argc, char** argv) {
  VictimInit(argc, argv);
  SYS(mkdir(VictimPath("watched"), 0755));
  const int fd = (int)SYS(inotify_init1(IN_NONBLOCK | IN_CLOEXEC));
  const int directory = (int)SYS(inotify_add_watch(fd, VictimPath("watched"), IN_CREATE));
  SYS(close(VictimFile("watched/early", 0, 0)));
  VictimReady();
  Expect(fd, directory, IN_CREATE, "early");
  VictimPass();
}
