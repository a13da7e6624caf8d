// SPDX-License-Identifier: Apache-2.0
//
// A thousand open files.
#include <sys/resource.h>

#include "victim.h"

int main(int argc, char** argv) {
  VictimInit(argc, argv);
  enum { kCount = 1000 };
  struct rlimit limit;
  SYS(getrlimit(RLIMIT_NOFILE, &limit));
  if (limit.rlim_max < kCount + 50) VictimSkip("only %lu descriptors allowed", (unsigned long)limit.rlim_max);
  if (limit.rlim_cur < kCount + 50) limit.rlim_cur = kCount + 50;
  SYS(setrlimit(RLIMIT_NOFILE, &limit));
  SYS(close(VictimFile("many", 5000, 77)));
  int fds[kCount];
  for (int i = 0; i < kCount; i++) {
    fds[i] = (int)SYS(open(VictimPath("many"), i % 2 ? O_RDONLY : O_RDWR));
    SYS(lseek(fds[i], i, SEEK_SET));
  }
  VictimReady();
  for (int i = 0; i < kCount; i++) {
    CHECK_EQ(lseek(fds[i], 0, SEEK_CUR), i);
    CHECK_EQ(fcntl(fds[i], F_GETFL) & O_ACCMODE, i % 2 ? O_RDONLY : O_RDWR);
  }
  VictimPass();
}
