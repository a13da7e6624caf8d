// SPDX-License-Identifier: Apache-2.0
//
// Private anonymous memory keeps its content.
#include "victim.h"

int main(int argc, char** argv) {
  VictimInit(argc, argv);
  const size_t size = 4 << 20;
  char* memory = VictimAnon(size);
  VictimFill(memory, size, 1);
  VictimReady();
  VictimVerify(memory, size, 1);
  VictimFill(memory, size, 2);  // and it is still writable
  VictimVerify(memory, size, 2);
  VictimPass();
}
