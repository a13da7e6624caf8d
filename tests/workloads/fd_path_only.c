// SPDX-License-Identifier: Apache-2.0
//
// O_PATH descriptors of a file, a directory and a symbolic link.
#include "victim.h"

int main(int argc, char** argv) {
  VictimInit(argc, argv);
  SYS(close(VictimFile("target", 10, 75)));
  SYS(symlink("target", VictimPath("link")));
  const int file = (int)SYS(open(VictimPath("target"), O_PATH));
  const int directory = (int)SYS(open(victim_scratch, O_PATH | O_DIRECTORY | O_CLOEXEC));
  const int link = (int)SYS(open(VictimPath("link"), O_PATH | O_NOFOLLOW));
  VictimReady();
  char byte, text[32] = {0};
  CHECK_ERRNO(read(file, &byte, 1), EBADF);
  CHECK(fcntl(file, F_GETFL) & O_PATH, "not an O_PATH descriptor any more");
  struct stat status;
  SYS(fstat(file, &status));
  CHECK_EQ(status.st_size, 10);
  SYS(fstat(link, &status));
  CHECK(S_ISLNK(status.st_mode), "mode of the link is %o", status.st_mode);
  SYS(readlinkat(link, "", text, sizeof(text) - 1));
  CHECK_STR(text, "target");
  const int again = (int)SYS(openat(directory, "target", O_RDONLY));
  CHECK_EQ(read(again, &byte, 1), 1);
  CHECK_EQ(fcntl(directory, F_GETFD), FD_CLOEXEC);
  VictimPass();
}
