// SPDX-License-Identifier: Apache-2.0
//
// General registers of a thread that sleeps in a system call: all but rax, rcx and r11 are kept.
#include "victim.h"

static int ends[2];

static uint64_t ReadAndCompare(int fd, char* byte) {
  uint64_t result;
  __asm__ volatile(
      "lea -128(%%rsp), %%rsp\n\t push %%rbp\n\t mov $0x77, %%ebp\n\t"
      "mov $0x1111111111111111, %%rbx\n\t mov $0x6666666666666666, %%r8\n\t"
      "mov $0x7777777777777777, %%r9\n\t mov $0x8888888888888888, %%r10\n\t"
      "mov $0xaaaaaaaaaaaaaaaa, %%r12\n\t mov $0xbbbbbbbbbbbbbbbb, %%r13\n\t"
      "mov %%rsi, %%r14\n\t mov %%rdi, %%r15\n\t"
      "mov $1, %%edx\n\t xor %%eax, %%eax\n\t syscall\n\t"
      "sub $1, %%rax\n\t sub $1, %%rdx\n\t or %%rdx, %%rax\n\t"
      "sub %%rsi, %%r14\n\t or %%r14, %%rax\n\t sub %%rdi, %%r15\n\t or %%r15, %%rax\n\t"
      "mov $0x1111111111111111, %%rcx\n\t sub %%rcx, %%rbx\n\t or %%rbx, %%rax\n\t"
      "mov $0x6666666666666666, %%rcx\n\t sub %%rcx, %%r8\n\t or %%r8, %%rax\n\t"
      "mov $0x7777777777777777, %%rcx\n\t sub %%rcx, %%r9\n\t or %%r9, %%rax\n\t"
      "mov $0x8888888888888888, %%rcx\n\t sub %%rcx, %%r10\n\t or %%r10, %%rax\n\t"
      "mov $0xaaaaaaaaaaaaaaaa, %%rcx\n\t sub %%rcx, %%r12\n\t or %%r12, %%rax\n\t"
      "mov $0xbbbbbbbbbbbbbbbb, %%rcx\n\t sub %%rcx, %%r13\n\t or %%r13, %%rax\n\t"
      "sub $0x77, %%rbp\n\t or %%rbp, %%rax\n\t pop %%rbp\n\t lea 128(%%rsp), %%rsp\n\t"
      : "=&a"(result)
      : "D"((long)fd), "S"(byte)
      : "rbx", "rcx", "rdx", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15", "cc", "memory");
  return result;
}

static void* Reader(void* byte) { return (void*)ReadAndCompare(ends[0], byte); }

int main(int argc, char** argv) {
  VictimInit(argc, argv);
  struct VictimThread reader;
  char byte = 0;
  SYS(pipe(ends));
  VictimSpawn(&reader, Reader, &byte);
  VictimAwaitBlocked(reader.tid, SYS_read);
  VictimReady();
  SYS(write(ends[1], "r", 1));
  CHECK_EQ((intptr_t)VictimJoin(&reader), 0);
  CHECK_EQ(byte, 'r');
  VictimPass();
}
