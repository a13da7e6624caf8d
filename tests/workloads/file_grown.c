// SPDX-License-Identifier: Apache-2.0
//
// A log file open for appending that others add to while the process is away.
#include "victim.h"

int main(int argc, char** argv) {
  VictimInit(argc, argv);
  const int fd = (int)SYS(open(VictimPath("grown"), O_WRONLY | O_CREAT | O_APPEND, 0644));
  SYS(write(fd, "a\n", 2));
  VictimReady();
  SYS(write(fd, "b\n", 2));
  char text[4096];
  const size_t length = VictimSlurp(VictimPath("grown"), text, sizeof(text));
  CHECK(length >= 4 && memcmp(text, "a\n", 2) == 0, "the log was cut to %zu bytes", length);
  CHECK(strstr(text, "b\n") != NULL, "the new line is not in the log");
  VictimPass();
}
