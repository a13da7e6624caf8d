// SPDX-License-Identifier: Apache-2.0
//
// inotify: watches keep their numbers and masks; new events come.
#include "inotify.inc"

int main(int argc, char** argv) {
  VictimInit(argc, argv);
  SYS(mkdir(VictimPath("watched"), 0755));
  SYS(close(VictimFile("single", 10, 0)));
  const int fd = (int)SYS(inotify_init1(IN_NONBLOCK | IN_CLOEXEC));
  const int unused = (int)SYS(inotify_add_watch(fd, victim_scratch, IN_MOVED_TO));
  const int directory = (int)SYS(inotify_add_watch(fd, VictimPath("watched"), IN_CREATE | IN_DELETE));
  const int file = (int)SYS(inotify_add_watch(fd, VictimPath("single"), IN_ATTRIB));
  SYS(inotify_rm_watch(fd, unused));  // leaves a gap in the numbers
  Expect(fd, unused, IN_IGNORED, "");
  SYS(close(VictimFile("watched/early", 0, 0)));
  Expect(fd, directory, IN_CREATE, "early");
  VictimReady();
  CHECK_EQ(fcntl(fd, F_GETFD), FD_CLOEXEC);
  SYS(close(VictimFile("watched/late", 0, 0)));
  SYS(chmod(VictimPath("single"), 0600));
  SYS(unlink(VictimPath("watched/early")));
  Expect(fd, directory, IN_CREATE, "late");
  Expect(fd, file, IN_ATTRIB, "");
  Expect(fd, directory, IN_DELETE, "early");
  CHECK_EQ(inotify_add_watch(fd, VictimPath("single"), IN_ATTRIB | IN_MODIFY), file);
  VictimPass();
}
