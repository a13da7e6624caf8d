// SPDX-License-Identifier: Apache-2.0
//
// The 128 bytes below the stack pointer belong to the function: neither capture nor restore may write there.
#include "victim.h"

static volatile int stop, spinning;

static uint64_t Hold(void) {
  uint64_t wrong;
  __asm__ volatile(
      "mov %%rsp, %%r8\n\t lea -512(%%rsp), %%rsp\n\t"  // leave the compiler's own red zone alone
      "mov $-128, %%rcx\n"
      "1: lea 0x5a5a00(%%rcx), %%rdx\n\t mov %%rdx, (%%rsp,%%rcx)\n\t add $8, %%rcx\n\t jnz 1b\n"
      "2: movl $1, %[spinning]\n\t cmpl $0, %[stop]\n\t je 2b\n\t"
      "xor %[wrong], %[wrong]\n\t mov $-128, %%rcx\n"
      "3: lea 0x5a5a00(%%rcx), %%rdx\n\t xor (%%rsp,%%rcx), %%rdx\n\t or %%rdx, %[wrong]\n\t"
      "add $8, %%rcx\n\t jnz 3b\n\t mov %%r8, %%rsp\n\t"
      : [wrong] "=&r"(wrong), [spinning] "+m"(spinning)
      : [stop] "m"(stop)
      : "rcx", "rdx", "r8", "cc", "memory");
  return wrong;
}

static void* Spinner(void* unused) {
  (void)unused;
  return (void*)Hold();
}

int main(int argc, char** argv) {
  VictimInit(argc, argv);
  struct VictimThread spinner;
  VictimSpawn(&spinner, Spinner, NULL);
  while (!spinning) VictimSleepMs(1);
  VictimReady();
  VictimSleepMs(5);
  stop = 1;
  CHECK_EQ((uintptr_t)VictimJoin(&spinner), 0);
  VictimPass();
}
