// SPDX-License-Identifier: Apache-2.0
//
// A shared mapping of /dev/zero is a memory object of its own, visible to a child.
#include <sys/wait.h>

#include "victim.h"

int main(int argc, char** argv) {
  VictimInit(argc, argv);
  const int fd = (int)SYS(open("/dev/zero", O_RDWR));
  char* shared = VictimMap(NULL, 16 * kPage, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  SYS(close(fd));
  VictimFill(shared, 8 * kPage, 49);
  VictimReady();
  VictimVerify(shared, 8 * kPage, 49);
  VictimVerifyZero(shared + 8 * kPage, 8 * kPage);
  const pid_t child = (pid_t)SYS(fork());
  if (child == 0) {
    shared[9 * kPage] = 'c';
    _exit(0);
  }
  SYS(waitpid(child, NULL, 0));
  CHECK_EQ(shared[9 * kPage], 'c');
  VictimPass();
}
