// SPDX-License-Identifier: Apache-2.0
//
// exe, command line, environment and auxiliary vector as /proc shows them.
#include "victim.h"

static const char* const kFiles[] = {"/proc/self/cmdline", "/proc/self/environ", "/proc/self/auxv"};

int main(int argc, char** argv) {
  VictimInit(argc, argv);
  static char before[3][65536], after[65536], exe_before[512], exe_after[512];
  size_t length[3];
  for (int i = 0; i < 3; i++) length[i] = VictimSlurp(kFiles[i], before[i], sizeof(before[i]));
  SYS(readlink("/proc/self/exe", exe_before, sizeof(exe_before) - 1));
  VictimReady();
  for (int i = 0; i < 3; i++) {
    CHECK_EQ(VictimSlurp(kFiles[i], after, sizeof(after)), length[i]);
    CHECK(memcmp(before[i], after, length[i]) == 0, "%s changed", kFiles[i]);
  }
  SYS(readlink("/proc/self/exe", exe_after, sizeof(exe_after) - 1));
  CHECK_STR(exe_after, exe_before);
  argv[0][0] = 'X';  // and the lines still show this memory
  VictimSlurp(kFiles[0], after, sizeof(after));
  CHECK_EQ(after[0], 'X');
  VictimPass();
}
