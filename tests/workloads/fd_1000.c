// SPDX-License-Identifier: Apache-2.0
//
// A thousand open files; each tenth descriptor has its description in common with the one before it.
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
    fds[i] = i % 10 == 9 ? (int)SYS(dup(fds[i - 1]))
                         : (int)SYS(open(VictimPath("many"), i % 2 ? O_RDONLY : O_RDWR));
    if (i % 10 != 9) SYS(lseek(fds[i], i, SEEK_SET));
  }
  VictimReady();
  for (int i = 0; i < kCount; i++) {
    const int first = i % 10 == 9 ? i - 1 : i;
    CHECK_EQ(lseek(fds[i], 0, SEEK_CUR), first);
    CHECK_EQ(fcntl(fds[i], F_GETFL) & O_ACCMODE, first % 2 ? O_RDONLY : O_RDWR);
  }
  for (int i = 9; i < kCount; i += 10) {
    SYS(lseek(fds[i], 4000 + i, SEEK_SET));
    CHECK_EQ(lseek(fds[i - 1], 0, SEEK_CUR), 4000 + i);
    CHECK_EQ(lseek(fds[i - 2], 0, SEEK_CUR), i - 2);
  }
  VictimPass();
}
