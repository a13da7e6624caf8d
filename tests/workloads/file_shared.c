// SPDX-License-Identifier: Apache-2.0
//
// A shared file mapping: content is the file's, and stores reach the file.
#include "victim.h"

int main(int argc, char** argv) {
  VictimInit(argc, argv);
  const size_t size = 8 * kPage;
  const int fd = VictimFile("shared", size, 7);
  char* map = VictimMap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  char* read_only = VictimMap(NULL, size, PROT_READ, MAP_SHARED, fd, 0);
  SYS(close(fd));
  map[5] = 'a';
  const char before = map[kPage];
  VictimReady();
  CHECK_EQ(map[5], 'a');
  CHECK_EQ(read_only[5], 'a');
  CHECK_EQ(map[kPage], before);
  map[2 * kPage] = 'z';
  CHECK_EQ(read_only[2 * kPage], 'z');
  char byte = 0;
  const int again = (int)SYS(open(VictimPath("shared"), O_RDONLY));
  CHECK_EQ(pread(again, &byte, 1, 2 * kPage), 1);
  CHECK_EQ(byte, 'z');
  SYS(mprotect(read_only, size, PROT_READ | PROT_WRITE));  // the file was open for writing
  read_only[3 * kPage] = 'y';
  CHECK_EQ(map[3 * kPage], 'y');
  VictimPass();
}
