// SPDX-License-Identifier: Apache-2.0
//
// A userfaultfd with a registered range cannot be captured: refused, and its mapping stays registered.
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>

#include "victim.h"

int main(int argc, char** argv) {
  VictimInit(argc, argv);
  const int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | UFFD_USER_MODE_ONLY);
  if (fd < 0) VictimSkip("userfaultfd: %s", strerror(errno));
  SYS(ioctl(fd, UFFDIO_API, &(struct uffdio_api){.api = UFFD_API}));
  char* memory = VictimIsland(4 * kPage);
  struct uffdio_register range = {.range = {(uintptr_t)memory, 4 * kPage},
                                  .mode = UFFDIO_REGISTER_MODE_MISSING};
  SYS(ioctl(fd, UFFDIO_REGISTER, &range));
  VictimReady();
  CHECK(VictimVmFlag(memory, "um"), "the range is not registered any more");
  struct uffdio_zeropage zero = {.range = {(uintptr_t)memory, kPage}};
  SYS(ioctl(fd, UFFDIO_ZEROPAGE, &zero));
  CHECK_EQ(memory[0], 0);
  VictimPass();
}
