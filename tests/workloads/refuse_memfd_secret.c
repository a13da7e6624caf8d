// SPDX-License-Identifier: Apache-2.0
//
// Memory of memfd_secret cannot be read from outside: refused, and its content stays.
#include "victim.h"

int main(int argc, char** argv) {
  VictimInit(argc, argv);
  const int fd = (int)syscall(SYS_memfd_secret, 0);
  if (fd < 0) VictimSkip("memfd_secret: %s", strerror(errno));
  SYS(ftruncate(fd, 4 * kPage));
  char* memory = mmap(NULL, 4 * kPage, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  if (memory == MAP_FAILED) VictimSkip("mmap of a secret memfd: %s", strerror(errno));
  VictimFill(memory, 4 * kPage, 93);
  VictimReady();
  VictimVerify(memory, 4 * kPage, 93);
  VictimPass();
}
