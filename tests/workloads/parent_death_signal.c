// SPDX-License-Identifier: Apache-2.0
//
// The signal asked for at the parent's death is remembered, and none has come.
#include <sys/prctl.h>

#include "victim.h"

static volatile sig_atomic_t came;
static void OnSignal(int number) { came = number; }

int main(int argc, char** argv) {
  VictimInit(argc, argv);
  SYS(sigaction(SIGUSR2, &(struct sigaction){.sa_handler = OnSignal}, NULL));
  SYS(prctl(PR_SET_PDEATHSIG, SIGUSR2));
  VictimReady();
  int number = 0;
  SYS(prctl(PR_GET_PDEATHSIG, &number));
  CHECK_EQ(number, SIGUSR2);
  CHECK_EQ(came, 0);
  VictimPass();
}
