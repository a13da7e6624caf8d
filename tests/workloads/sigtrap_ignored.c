// SPDX-License-Identifier: Apache-2.0
//
// An ignored SIGTRAP stays ignored.
#include "victim.h"

int main(int argc, char** argv) {
  VictimInit(argc, argv);
  SYS(sigaction(SIGTRAP, &(struct sigaction){.sa_handler = SIG_IGN}, NULL));
  VictimReady();
  struct sigaction now;
  SYS(sigaction(SIGTRAP, NULL, &now));
  CHECK(now.sa_handler == SIG_IGN, "SIGTRAP is no longer ignored");
  SYS(kill(getpid(), SIGTRAP));
  VictimPass();
}
