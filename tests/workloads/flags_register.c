// SPDX-License-Identifier: Apache-2.0
//
// The flags register, direction flag included, of a thread in user mode.
#include "victim.h"

static volatile int stop, spinning;

// mov and jrcxz leave the flags alone.
static uint64_t Hold(uint64_t flags) {
  uint64_t after;
  __asm__ volatile(
      "lea -128(%%rsp), %%rsp\n\t push %[flags]\n\t popfq\n\t"
      "1: movl $1, %[spinning]\n\t movl %[stop], %%ecx\n\t jrcxz 1b\n\t"
      "pushfq\n\t pop %[after]\n\t cld\n\t lea 128(%%rsp), %%rsp\n\t"
      : [after] "=&r"(after), [spinning] "+m"(spinning)
      : [flags] "r"(flags), [stop] "m"(stop)
      : "rcx", "cc", "memory");
  return after;
}

enum { kCarry = 1, kParity = 4, kAdjust = 0x10, kSign = 0x80, kDirection = 0x400, kOverflow = 0x800 };

static void* Spinner(void* flags) { return (void*)Hold((uint64_t)(uintptr_t)flags); }

int main(int argc, char** argv) {
  VictimInit(argc, argv);
  const uintptr_t wanted = 0x202 | kCarry | kParity | kAdjust | kSign | kDirection | kOverflow;
  struct VictimThread spinner;
  VictimSpawn(&spinner, Spinner, (void*)wanted);
  while (!spinning) VictimSleepMs(1);
  VictimReady();
  VictimSleepMs(5);
  stop = 1;
  CHECK_EQ((uintptr_t)VictimJoin(&spinner), wanted);
  VictimPass();
}
