// SPDX-License-Identifier: Apache-2.0
//
// Machine code that the program wrote itself is still executable, and can still be rewritten.
#include "victim.h"

static unsigned char* code;

static int Call(void) {
  int (*function)(void);
  memcpy(&function, &code, sizeof(function));
  return function();
}

int main(int argc, char** argv) {
  VictimInit(argc, argv);
  static const unsigned char kReturn[] = {0xb8, 0x2a, 0, 0, 0, 0xc3};
  code = VictimAnon(2 * kPage);
  memcpy(code, kReturn, sizeof(kReturn));
  SYS(mprotect(code, kPage, PROT_READ | PROT_EXEC));
  CHECK_EQ(Call(), 42);
  VictimReady();
  CHECK_EQ(Call(), 42);
  CHECK_STR(VictimFindVma(code).perms, "r-xp");
  SYS(mprotect(code, kPage, PROT_READ | PROT_WRITE));
  code[1] = 43;
  SYS(mprotect(code, kPage, PROT_READ | PROT_EXEC));
  CHECK_EQ(Call(), 43);
  VictimPass();
}
