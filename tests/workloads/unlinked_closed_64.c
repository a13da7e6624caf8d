// SPDX-License-Identifier: Apache-2.0
//
// Many files without a name that only mappings have open: more than a process has free descriptors below its highest.
#include "victim.h"

enum { kFiles = 64 };

int main(int argc, char** argv) {
  VictimInit(argc, argv);
  char* maps[kFiles];
  for (int i = 0; i < kFiles; i++) {
    char name[32];
    snprintf(name, sizeof(name), "closed-%d", i);
    const int fd = VictimFile(name, 2 * kPage, 300 + (uint64_t)i);
    maps[i] = VictimMap(NULL, 2 * kPage, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    SYS(unlink(VictimPath(name)));
    SYS(close(fd));
  }
  VictimReady();
  for (int i = 0; i < kFiles; i++) VictimVerify(maps[i], 2 * kPage, 300 + (uint64_t)i);
  // Each is a file of its own.
  for (int i = 0; i < kFiles; i++) maps[i][0] = (char)i;
  for (int i = 0; i < kFiles; i++) CHECK_EQ(maps[i][0], (char)i);
  VictimPass();
}
