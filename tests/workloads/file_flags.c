// SPDX-License-Identifier: Apache-2.0
//
// Status flags of open files: access mode, O_NONBLOCK, O_SYNC, O_NOATIME, O_DIRECT and O_CLOEXEC.
#include "victim.h"

static const int kFlags[] = {O_RDONLY,
                             O_WRONLY,
                             O_RDWR | O_NONBLOCK,
                             O_WRONLY | O_SYNC,
                             O_RDWR | O_DSYNC,
                             O_RDONLY | O_CLOEXEC,
                             O_RDONLY | O_NOATIME,
                             O_RDWR | O_DIRECT};
enum { kCount = sizeof(kFlags) / sizeof(kFlags[0]) };

int main(int argc, char** argv) {
  VictimInit(argc, argv);
  int fds[kCount], status[kCount];
  SYS(close(VictimFile("flags", 8192, 71)));
  for (int i = 0; i < kCount; i++) {
    fds[i] = open(VictimPath("flags"), kFlags[i]);
    if (fds[i] < 0) continue;  // not every file system knows O_DIRECT
    status[i] = (int)SYS(fcntl(fds[i], F_GETFL));
  }
  VictimReady();
  for (int i = 0; i < kCount; i++) {
    if (fds[i] < 0) continue;
    CHECK_EQ(fcntl(fds[i], F_GETFL), status[i]);
    CHECK_EQ(fcntl(fds[i], F_GETFD), kFlags[i] & O_CLOEXEC ? FD_CLOEXEC : 0);
  }
  VictimPass();
}
