// SPDX-License-Identifier: Apache-2.0
//
// A file of a cgroup cannot be captured: refused, and it can still be read.
#include <linux/magic.h>
#include <sys/vfs.h>

#include "victim.h"

static int OpenOne(void) {
  static const char* const kNames[] = {"/sys/fs/cgroup/cgroup.procs", "/sys/fs/cgroup/unified/cgroup.procs",
                                       "/sys/fs/cgroup/pids/cgroup.procs"};
  for (size_t i = 0; i < sizeof(kNames) / sizeof(kNames[0]); i++) {
    struct statfs fs;
    const int fd = open(kNames[i], O_RDONLY);
    if (fd < 0) continue;
    SYS(fstatfs(fd, &fs));
    if (fs.f_type == CGROUP_SUPER_MAGIC || fs.f_type == CGROUP2_SUPER_MAGIC) return fd;
    SYS(close(fd));
  }
  VictimSkip("no cgroup is mounted below /sys/fs/cgroup");
}

int main(int argc, char** argv) {
  VictimInit(argc, argv);
  const int fd = OpenOne();
  VictimReady();
  char text[32];
  CHECK(SYS(read(fd, text, sizeof(text))) >= 0, "it cannot be read");
  VictimPass();
}
