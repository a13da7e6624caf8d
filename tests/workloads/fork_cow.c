// SPDX-License-Identifier: Apache-2.0
//
// fork(2) afterwards: parent and child share pages until one writes.
#include <sys/wait.h>

#include "victim.h"

int main(int argc, char** argv) {
  VictimInit(argc, argv);
  char* private = VictimAnon(256 * kPage);
  char* shared = VictimMap(NULL, kPage, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  VictimFill(private, 256 * kPage, 47);
  VictimReady();
  const pid_t child = (pid_t)SYS(fork());
  if (child == 0) {
    VictimVerify(private, 256 * kPage, 47);
    memset(private, 0, 256 * kPage);
    shared[0] = 's';
    _exit(5);
  }
  int status = 0;
  CHECK_EQ(SYS(waitpid(child, &status, 0)), child);
  CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 5, "child's status is %#x", status);
  VictimVerify(private, 256 * kPage, 47);
  CHECK_EQ(shared[0], 's');
  VictimPass();
}
