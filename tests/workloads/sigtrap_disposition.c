// SPDX-License-Identifier: Apache-2.0
//
// The handler of SIGTRAP, which whoever traces a process may lose for it.
#include "victim.h"

static volatile sig_atomic_t came;
static void OnTrap(int number) { came = number; }

int main(int argc, char** argv) {
  VictimInit(argc, argv);
  SYS(sigaction(SIGTRAP, &(struct sigaction){.sa_handler = OnTrap}, NULL));
  VictimReady();
  SYS(kill(getpid(), SIGTRAP));
  CHECK_EQ(came, SIGTRAP);
  VictimPass();
}
