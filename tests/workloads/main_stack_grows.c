// SPDX-License-Identifier: Apache-2.0
//
// The main thread's stack still grows on demand.
#include "victim.h"

// The address goes to the assembler, so that every call needs a frame of its own.
static __attribute__((noinline)) int Deep(int depth) {
  volatile char frame[8192];
  __asm__ volatile("" : : "r"(frame) : "memory");
  frame[0] = (char)depth;
  frame[8191] = (char)depth;
  const int below = depth == 0 ? 0 : 1 + Deep(depth - 1);
  __asm__ volatile("" : : "r"(frame) : "memory");
  CHECK_EQ(frame[0], (char)depth);
  CHECK_EQ(frame[8191], (char)depth);
  return below;
}

int main(int argc, char** argv) {
  VictimInit(argc, argv);
  char here;
  char* volatile at = &here;
  CHECK(VictimVmFlag(at, "gd"), "main stack without VM_GROWSDOWN");
  const uintptr_t start = VictimFindVma(at).start;
  VictimReady();
  CHECK_STR(VictimFindVma(at).name, "[stack]");
  CHECK_EQ(Deep(500), 500);
  CHECK(VictimFindVma(at).start + (3 << 20) < start, "stack did not grow: %#lx was %#lx",
        (unsigned long)VictimFindVma(at).start, (unsigned long)start);
  VictimPass();
}
