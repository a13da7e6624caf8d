// SPDX-License-Identifier: Apache-2.0
//
// A deleted file that is open twice: content, size, positions, and both see each other's writes.
#include "victim.h"

int main(int argc, char** argv) {
  VictimInit(argc, argv);
  enum { kSize = 200000 };
  const int writer = VictimFile("deleted", kSize, 72);
  const int reader = (int)SYS(open(VictimPath("deleted"), O_RDONLY));
  SYS(unlink(VictimPath("deleted")));
  SYS(lseek(writer, 5000, SEEK_SET));
  VictimReady();
  static char content[kSize];
  CHECK_EQ(pread(reader, content, kSize, 0), kSize);
  VictimVerify(content, kSize, 72);
  CHECK_EQ(lseek(writer, 0, SEEK_CUR), 5000);
  CHECK_EQ(lseek(reader, 0, SEEK_CUR), 0);
  SYS(write(writer, "W", 1));
  CHECK_EQ(pread(reader, content, 1, 5000), 1);
  CHECK_EQ(content[0], 'W');
  SYS(ftruncate(writer, kSize * 2));
  struct stat status;
  SYS(fstat(reader, &status));
  CHECK_EQ(status.st_size, kSize * 2);
  CHECK_EQ(status.st_nlink, 0);
  CHECK_EQ(status.st_mode & 0777, 0644);
  CHECK_ERRNO(write(reader, "x", 1), EBADF);
  VictimPass();
}
