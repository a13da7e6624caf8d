// SPDX-License-Identifier: Apache-2.0
//
// Holes of a memfd stay holes: a sparse 1 GiB object does not become a full one.
#include "victim.h"

int main(int argc, char** argv) {
  VictimInit(argc, argv);
  const int fd = (int)SYS(memfd_create("sparse", 0));
  SYS(ftruncate(fd, 1 << 30));
  char page[kPage];
  for (int i = 0; i < 4; i++) {
    VictimFill(page, kPage, (uint64_t)i);
    CHECK_EQ(pwrite(fd, page, kPage, (off_t)i * (200 << 20)), kPage);
  }
  struct stat before, after;
  SYS(fstat(fd, &before));
  VictimReady();
  for (int i = 0; i < 4; i++) {
    CHECK_EQ(pread(fd, page, kPage, (off_t)i * (200 << 20)), kPage);
    VictimVerify(page, kPage, (uint64_t)i);
  }
  SYS(fstat(fd, &after));
  CHECK_EQ(after.st_size, before.st_size);
  CHECK(after.st_blocks <= before.st_blocks + 4096, "%lld blocks became %lld", (long long)before.st_blocks,
        (long long)after.st_blocks);
  CHECK_EQ(SYS(lseek(fd, 0, SEEK_CUR)), 0);
  VictimPass();
}
