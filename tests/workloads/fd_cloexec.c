// SPDX-License-Identifier: Apache-2.0
//
// The close-on-exec flag belongs to the descriptor, not to the file: a mix over duplicates, seen through
// exec.
#include <sys/wait.h>

#include "victim.h"

int main(int argc, char** argv) {
  VictimInit(argc, argv);
  const int first = VictimFile("cloexec", 10, 74);
  int fds[10];
  for (int i = 0; i < 10; i++)
    fds[i] = (int)SYS(fcntl(first, i % 3 ? F_DUPFD_CLOEXEC : F_DUPFD, 100 + 7 * i));
  VictimReady();
  char command[400] = "";
  for (int i = 0; i < 10; i++) {
    CHECK_EQ(fcntl(fds[i], F_GETFD), i % 3 ? FD_CLOEXEC : 0);
    char test[40];
    snprintf(test, sizeof(test), "test %s -e /proc/self/fd/%d && ", i % 3 ? "!" : "", fds[i]);
    strcat(command, test);
  }
  strcat(command, "exit 7");
  const pid_t child = (pid_t)SYS(fork());
  if (child == 0) {
    execl("/bin/sh", "sh", "-c", command, (char*)NULL);
    _exit(127);
  }
  int status = 0;
  SYS(waitpid(child, &status, 0));
  CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 7, "shell saw other descriptors: status %#x", status);
  VictimPass();
}
