// SPDX-License-Identifier: Apache-2.0
//
// The personality: address randomization stays off.
#include <sys/personality.h>

#include "victim.h"

int main(int argc, char** argv) {
  VictimInit(argc, argv);
  SYS(personality(ADDR_NO_RANDOMIZE | STICKY_TIMEOUTS));
  VictimReady();
  CHECK_EQ(personality(0xffffffff), ADDR_NO_RANDOMIZE | STICKY_TIMEOUTS);
  VictimPass();
}
