// SPDX-License-Identifier: Apache-2.0
//
// oom_score_adj and coredump_filter, which are only settable through /proc.
#include "victim.h"

static void Write(const char* path, const char* text) {
  const int fd = (int)SYS(open(path, O_WRONLY));
  SYS(write(fd, text, strlen(text)));
  SYS(close(fd));
}

int main(int argc, char** argv) {
  VictimInit(argc, argv);
  char text[32];
  Write("/proc/self/oom_score_adj", "321");
  Write("/proc/self/coredump_filter", "0x57");
  VictimReady();
  VictimSlurp("/proc/self/oom_score_adj", text, sizeof(text));
  CHECK_EQ(atoi(text), 321);
  VictimSlurp("/proc/self/coredump_filter", text, sizeof(text));
  CHECK_EQ(strtol(text, NULL, 16), 0x57);
  VictimPass();
}
