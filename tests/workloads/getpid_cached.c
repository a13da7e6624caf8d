// SPDX-License-Identifier: Apache-2.0
//
// Process and parent-independent ids that a program has remembered are still its own.
#include "victim.h"

int main(int argc, char** argv) {
  VictimInit(argc, argv);
  const pid_t pid = getpid(), tid = gettid();
  VictimReady();
  CHECK_EQ(getpid(), pid);
  CHECK_EQ(syscall(SYS_getpid), pid);
  CHECK_EQ(gettid(), tid);
  char text[32];
  VictimProcField("/proc/self/status", "Pid", text, sizeof(text));
  CHECK_EQ(atoi(text), pid);
  char link[32] = {0};
  SYS(readlink("/proc/self", link, sizeof(link) - 1));
  CHECK_EQ(atoi(link), pid);
  SYS(kill(pid, 0));
  VictimPass();
}
