// SPDX-License-Identifier: Apache-2.0
//
// A large private anonymous mapping keeps all of its content.
#include "victim.h"

int main(int argc, char** argv) {
  VictimInit(argc, argv);
  const size_t size = 256 << 20;
  char* memory = VictimAnon(size);
  VictimFill(memory, size, 3);
  VictimReady();
  VictimVerify(memory, size, 3);
  VictimPass();
}
