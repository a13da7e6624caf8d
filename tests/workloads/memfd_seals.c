// SPDX-License-Identifier: Apache-2.0
//
// memfds that are not mapped: content, position, every kind of seal, and one that cannot be sealed.
#include "victim.h"

int main(int argc, char** argv) {
  VictimInit(argc, argv);
  static const int kSeals[] = {0, F_SEAL_WRITE, F_SEAL_GROW, F_SEAL_SHRINK | F_SEAL_SEAL,
                               F_SEAL_FUTURE_WRITE};
  int fds[5];
  char content[5000], link[64] = {0}, path[64];
  VictimFill(content, sizeof(content), 79);
  for (int i = 0; i < 5; i++) {
    fds[i] = (int)SYS(memfd_create("sealed", MFD_ALLOW_SEALING));
    CHECK_EQ(write(fds[i], content, sizeof(content)), sizeof(content));
    SYS(lseek(fds[i], i * 10, SEEK_SET));
    if (kSeals[i] != 0) SYS(fcntl(fds[i], F_ADD_SEALS, kSeals[i]));
  }
  const int closed = (int)SYS(memfd_create("never", 0));
  VictimReady();
  for (int i = 0; i < 5; i++) {
    CHECK_EQ(fcntl(fds[i], F_GET_SEALS), kSeals[i]);
    CHECK_EQ(lseek(fds[i], 0, SEEK_CUR), i * 10);
    CHECK_EQ(pread(fds[i], content, sizeof(content), 0), sizeof(content));
    VictimVerify(content, sizeof(content), 79);
  }
  CHECK_ERRNO(pwrite(fds[1], "x", 1, 0), EPERM);
  CHECK_ERRNO(ftruncate(fds[2], 6000), EPERM);
  CHECK_ERRNO(ftruncate(fds[3], 10), EPERM);
  CHECK_ERRNO(pwrite(fds[4], "x", 1, 0), EPERM);
  CHECK_EQ(fcntl(closed, F_GET_SEALS), F_SEAL_SEAL);
  snprintf(path, sizeof(path), "/proc/self/fd/%d", closed);
  SYS(readlink(path, link, sizeof(link) - 1));
  CHECK_STR(link, "/memfd:never (deleted)");
  VictimPass();
}
