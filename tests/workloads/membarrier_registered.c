// SPDX-License-Identifier: Apache-2.0
//
// membarrier(2) registrations: the expedited commands, which need them, still work.
#include <linux/membarrier.h>

#include "victim.h"

static long Membarrier(int command) { return syscall(SYS_membarrier, command, 0, 0); }

int main(int argc, char** argv) {
  VictimInit(argc, argv);
  CHECK_ERRNO(Membarrier(MEMBARRIER_CMD_PRIVATE_EXPEDITED), EPERM);
  SYS(Membarrier(MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED));
  SYS(Membarrier(MEMBARRIER_CMD_REGISTER_GLOBAL_EXPEDITED));
  VictimReady();
  SYS(Membarrier(MEMBARRIER_CMD_PRIVATE_EXPEDITED));
  CHECK_ERRNO(Membarrier(MEMBARRIER_CMD_PRIVATE_EXPEDITED_SYNC_CORE), EPERM);  // was never registered
  VictimPass();
}
