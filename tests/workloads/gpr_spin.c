// SPDX-License-Identifier: Apache-2.0
//
// All general registers of a thread in a tight loop keep their values.
#include "victim.h"

static volatile int stop;
static volatile uint64_t spins;

// Every register but rsp holds a known value while the loop watches `stop`; at the end each is compared.
static uint64_t Spin(void) {
  uint64_t wrong;
  __asm__ volatile(
      "lea -128(%%rsp), %%rsp\n\t push %%rbp\n\t"  // below the red zone
      "mov $0x0b, %%ebp\n\t"
      "mov $0x1111111111111111, %%rbx\n\t"
      "mov $0x2222222222222222, %%rcx\n\t"
      "mov $0x3333333333333333, %%rdx\n\t"
      "mov $0x4444444444444444, %%rsi\n\t"
      "mov $0x5555555555555555, %%rdi\n\t"
      "mov $0x6666666666666666, %%r8\n\t"
      "mov %%r8, %%r9\n\t not %%r9\n\t"
      "mov $0x8888888888888888, %%r10\n\t"
      "mov %%r10, %%r11\n\t not %%r11\n\t"
      "mov $0xaaaaaaaaaaaaaaaa, %%r12\n\t"
      "mov %%r12, %%r13\n\t not %%r13\n\t"
      "mov $0xcccccccccccccccc, %%r14\n\t"
      "mov %%r14, %%r15\n\t not %%r15\n\t"
      "1: incq %[spins]\n\t cmpl $0, %[stop]\n\t je 1b\n\t"
      "xor %%eax, %%eax\n\t"
      "not %%r9\n\t xor %%r8, %%r9\n\t or %%r9, %%rax\n\t"
      "not %%r11\n\t xor %%r10, %%r11\n\t or %%r11, %%rax\n\t"
      "not %%r13\n\t xor %%r12, %%r13\n\t or %%r13, %%rax\n\t"
      "not %%r15\n\t xor %%r14, %%r15\n\t or %%r15, %%rax\n\t"
      "mov $0x1111111111111111, %%r9\n\t xor %%r9, %%rbx\n\t or %%rbx, %%rax\n\t"
      "mov $0x2222222222222222, %%r9\n\t xor %%r9, %%rcx\n\t or %%rcx, %%rax\n\t"
      "mov $0x3333333333333333, %%r9\n\t xor %%r9, %%rdx\n\t or %%rdx, %%rax\n\t"
      "mov $0x4444444444444444, %%r9\n\t xor %%r9, %%rsi\n\t or %%rsi, %%rax\n\t"
      "mov $0x5555555555555555, %%r9\n\t xor %%r9, %%rdi\n\t or %%rdi, %%rax\n\t"
      "mov $0x6666666666666666, %%r9\n\t xor %%r9, %%r8\n\t or %%r8, %%rax\n\t"
      "mov $0x8888888888888888, %%r9\n\t xor %%r9, %%r10\n\t or %%r10, %%rax\n\t"
      "mov $0xaaaaaaaaaaaaaaaa, %%r9\n\t xor %%r9, %%r12\n\t or %%r12, %%rax\n\t"
      "mov $0xcccccccccccccccc, %%r9\n\t xor %%r9, %%r14\n\t or %%r14, %%rax\n\t"
      "xor $0x0b, %%rbp\n\t or %%rbp, %%rax\n\t"
      "pop %%rbp\n\t lea 128(%%rsp), %%rsp\n\t"
      : "=&a"(wrong), [spins] "+m"(spins)
      : [stop] "m"(stop)
      : "rbx", "rcx", "rdx", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15", "cc",
        "memory");
  return wrong;
}

static void* Spinner(void* unused) {
  (void)unused;
  return (void*)Spin();
}

int main(int argc, char** argv) {
  VictimInit(argc, argv);
  struct VictimThread spinner;
  VictimSpawn(&spinner, Spinner, NULL);
  while (spins < 1000) VictimSleepMs(1);
  VictimReady();
  const uint64_t before = spins;
  while (spins == before) VictimSleepMs(1);
  stop = 1;
  CHECK_EQ((intptr_t)VictimJoin(&spinner), 0);
  VictimPass();
}
