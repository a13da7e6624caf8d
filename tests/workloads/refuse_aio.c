// SPDX-License-Identifier: Apache-2.0
//
// A context of Linux asynchronous I/O cannot be captured: refused, and it works on.
#include <linux/aio_abi.h>

#include "victim.h"

int main(int argc, char** argv) {
  VictimInit(argc, argv);
  aio_context_t context = 0;
  if (syscall(SYS_io_setup, 8, &context) != 0) VictimSkip("io_setup: %s", strerror(errno));
  const int fd = VictimFile("aio", 4096, 91);
  static char buffer[4096];
  VictimReady();
  struct iocb request = {.aio_lio_opcode = IOCB_CMD_PREAD, .aio_fildes = (uint32_t)fd};
  request.aio_buf = (uintptr_t)buffer;
  request.aio_nbytes = sizeof(buffer);
  CHECK_EQ(SYS(syscall(SYS_io_submit, context, 1, &(struct iocb*){&request})), 1);
  struct io_event event;
  CHECK_EQ(SYS(syscall(SYS_io_getevents, context, 1, 1, &event, NULL)), 1);
  CHECK_EQ(event.res, sizeof(buffer));
  VictimVerify(buffer, sizeof(buffer), 91);
  VictimPass();
}
