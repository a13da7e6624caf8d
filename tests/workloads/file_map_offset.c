// SPDX-License-Identifier: Apache-2.0
//
// A file mapped from an offset that is not zero, in two neighbours that are not in file order.
#include "victim.h"

int main(int argc, char** argv) {
  VictimInit(argc, argv);
  const int fd = VictimFile("offsets", 64 * kPage, 0);
  char content[kPage];
  for (int i = 0; i < 64; i++) {
    VictimFill(content, kPage, (uint64_t)i);
    CHECK_EQ(pwrite(fd, content, kPage, i * kPage), kPage);
  }
  char* room = VictimAnon(8 * kPage);
  VictimMap(room, 4 * kPage, PROT_READ, MAP_PRIVATE | MAP_FIXED, fd, 40 * kPage);
  VictimMap(room + 4 * kPage, 4 * kPage, PROT_READ, MAP_SHARED | MAP_FIXED, fd, 20 * kPage);
  SYS(close(fd));
  VictimReady();
  for (int i = 0; i < 4; i++) {
    VictimVerify(room + i * kPage, kPage, (uint64_t)(40 + i));
    VictimVerify(room + (4 + i) * kPage, kPage, (uint64_t)(20 + i));
  }
  CHECK_EQ(VictimFindVma(room).offset, 40 * kPage);
  CHECK_EQ(VictimFindVma(room + 4 * kPage).offset, 20 * kPage);
  VictimPass();
}
