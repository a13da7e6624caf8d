// SPDX-License-Identifier: Apache-2.0
//
// A fanotify group cannot be captured: refused, and it works on.
#include <sys/fanotify.h>

#include "victim.h"

int main(int argc, char** argv) {
  VictimInit(argc, argv);
  const int fd = fanotify_init(FAN_CLASS_NOTIF | FAN_NONBLOCK | FAN_CLOEXEC, O_RDONLY);
  if (fd < 0) VictimSkip("fanotify_init: %s", strerror(errno));
  SYS(close(VictimFile("marked", 10, 0)));
  if (fanotify_mark(fd, FAN_MARK_ADD, FAN_OPEN, AT_FDCWD, VictimPath("marked")) != 0) {
    VictimSkip("fanotify_mark: %s", strerror(errno));
  }
  VictimReady();
  SYS(close((int)SYS(open(VictimPath("marked"), O_RDONLY))));
  struct fanotify_event_metadata event;
  CHECK(SYS(read(fd, &event, sizeof(event))) > 0, "no event");
  CHECK(event.mask & FAN_OPEN, "event's mask is %#llx", (unsigned long long)event.mask);
  VictimPass();
}
