// SPDX-License-Identifier: Apache-2.0
//
// A private file mapping keeps its copied pages and shows the file in the others.
#include "victim.h"

int main(int argc, char** argv) {
  VictimInit(argc, argv);
  const size_t size = 16 * kPage;
  const int fd = VictimFile("data", size, 5);
  char* map = VictimMap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
  SYS(close(fd));
  for (size_t page = 0; page < 16; page += 3) VictimFill(map + page * kPage, kPage, 100 + page);
  char* clean = VictimMap(NULL, size, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  SYS(mprotect(clean, size, PROT_READ | PROT_WRITE));
  VictimFill(clean, size, 5);
  VictimReady();
  for (size_t page = 0; page < 16; page++) {
    if (page % 3 == 0) {
      VictimVerify(map + page * kPage, kPage, 100 + page);
    } else {
      CHECK(memcmp(map + page * kPage, clean + page * kPage, kPage) == 0, "page %zu is not the file's", page);
    }
  }
  CHECK(strstr(VictimFindVma(map).name, "/data") != NULL, "mapped name is %s", VictimFindVma(map).name);
  map[kPage] ^= 1;  // a write after restore must not reach the file
  char byte;
  const int again = (int)SYS(open(VictimPath("data"), O_RDONLY));
  CHECK_EQ(pread(again, &byte, 1, kPage), 1);
  CHECK_EQ(byte, clean[kPage]);
  VictimPass();
}
