// SPDX-License-Identifier: Apache-2.0
//
// A memfd of huge pages that is not mapped: refused, since it would come back with small ones.
#include <linux/memfd.h>
#include <sys/vfs.h>

#include "victim.h"

int main(int argc, char** argv) {
  VictimInit(argc, argv);
  const int fd = (int)syscall(SYS_memfd_create, "huge", MFD_HUGETLB | MFD_CLOEXEC);
  if (fd < 0) VictimSkip("memfd_create(MFD_HUGETLB): %s", strerror(errno));
  SYS(ftruncate(fd, 2 << 20));
  VictimReady();
  struct statfs fs;
  struct stat status;
  SYS(fstatfs(fd, &fs));
  SYS(fstat(fd, &status));
  CHECK_EQ(fs.f_type, 0x958458f6);  // HUGETLBFS_MAGIC
  CHECK_EQ(status.st_size, 2 << 20);
  VictimPass();
}
