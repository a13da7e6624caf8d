// SPDX-License-Identifier: Apache-2.0
//
// A descriptor whose signals go to another process cannot be captured: refused, and they still go there.
#include "victim.h"

int main(int argc, char** argv) {
  VictimInit(argc, argv);
  int ends[2];
  SYS(pipe(ends));
  const pid_t other = getppid();
  SYS(fcntl(ends[0], F_SETOWN, other));
  VictimReady();
  CHECK_EQ(SYS(fcntl(ends[0], F_GETOWN)), other);
  VictimPass();
}
