// SPDX-License-Identifier: Apache-2.0
//
// A file without a name, mapped and open: content lives on, both ways stay coherent.
#include "victim.h"

int main(int argc, char** argv) {
  VictimInit(argc, argv);
  const int fd = VictimFile("unlinked", 4 * kPage, 11);
  char* map = VictimMap(NULL, 4 * kPage, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  SYS(unlink(VictimPath("unlinked")));
  VictimReady();
  VictimVerify(map, 4 * kPage, 11);
  map[0] = 'u';
  char byte = 0;
  CHECK_EQ(pread(fd, &byte, 1, 0), 1);
  CHECK_EQ(byte, 'u');
  CHECK_EQ(pwrite(fd, "v", 1, kPage), 1);
  CHECK_EQ(map[kPage], 'v');
  struct stat status;
  SYS(fstat(fd, &status));
  CHECK_EQ(status.st_nlink, 0);
  CHECK_EQ(status.st_size, 4 * kPage);
  CHECK_ERRNO(access(VictimPath("unlinked"), F_OK), ENOENT);
  VictimPass();
}
