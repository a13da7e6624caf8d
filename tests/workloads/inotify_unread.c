// SPDX-License-Identifier: Apache-2.0
//
// inotify: events that were not read are still there after a dump, or the dump is refused.
#include <sys/inotify.h>

#include "victim.h"

static void Expect(int fd, int wd, uint32_t mask, const char* name) {
  union {
    struct inotify_event event;
    char bytes[sizeof(struct inotify_event) + 256];
  } buffer;
  // Room for one event only, so that the order can be checked.
  CHECK(SYS(read(fd, &buffer, sizeof(struct inotify_event) + 16)) > 0, "no event");
  CHECK_EQ(buffer.event.wd, wd);
  CHECK_EQ(buffer.event.mask, mask);
  CHECK_STR(buffer.event.len > 0 ? buffer.event.name : "", name);
}

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
