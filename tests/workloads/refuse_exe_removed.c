// SPDX-License-Identifier: Apache-2.0
//
// A process whose program file was removed: refused.
#include "victim.h"

static void Copy(const char* from, const char* to) {
  char buffer[65536];
  const int source = (int)SYS(open(from, O_RDONLY)), target = (int)SYS(open(to, O_WRONLY | O_CREAT, 0700));
  for (ssize_t n; (n = SYS(read(source, buffer, sizeof(buffer)))) > 0;)
    CHECK_EQ(SYS(write(target, buffer, (size_t)n)), n);
  SYS(close(source));
  SYS(close(target));
}

int main(int argc, char** argv) {
  VictimInit(argc, argv);
  const char* copy = VictimPath("copy");
  if (access(copy, F_OK) != 0) {
    Copy("/proc/self/exe", copy);
    char* arguments[] = {(char*)copy, argv[1], NULL};
    SYS(execv(copy, arguments));
  }
  SYS(unlink(copy));
  VictimReady();
  char target[512] = {0};
  SYS(readlink("/proc/self/exe", target, sizeof(target) - 1));
  CHECK(strstr(target, "(deleted)") != NULL, "the program is %s", target);
  VictimPass();
}
