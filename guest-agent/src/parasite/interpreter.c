/* SPDX-License-Identifier: Apache-2.0
 *
 * The parasite: a position-independent interpreter of syscall programs, with no libc, no relocations and no
 * data of its own, so that it runs from wherever its bytes were put. It uses general registers only: the
 * FPU state belongs to the process it runs in.
 */
#include "program.h"

#include <asm/unistd.h>
#include <linux/futex.h>

static moult_s64 Syscall(moult_u64 nr, moult_u64 a, moult_u64 b, moult_u64 c, moult_u64 d, moult_u64 e,
                         moult_u64 f) {
  register moult_u64 r10 __asm__("r10") = d;
  register moult_u64 r8 __asm__("r8") = e;
  register moult_u64 r9 __asm__("r9") = f;
  moult_s64 result;
  __asm__ volatile("syscall"
                   : "=a"(result)
                   : "a"(nr), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
                   : "rcx", "r11", "memory");
  return result;
}

void MoultThreadMain(struct MoultProgram* program);

/* The child starts on a new stack whose topmost word is its program. */
static moult_s64 Clone(moult_u64 args, moult_u64 size) {
  moult_s64 result;
  __asm__ volatile(
      "syscall\n\t"
      "test %%rax, %%rax\n\t"
      "jnz 1f\n\t"
      "xor %%ebp, %%ebp\n\t"
      "pop %%rdi\n\t"
      "and $-16, %%rsp\n\t"
      "call MoultThreadMain\n\t"
      "ud2\n\t"
      "1:"
      : "=a"(result)
      : "a"(__NR_clone3), "D"(args), "S"(size)
      : "rcx", "r11", "memory");
  return result;
}

static moult_s64 WaitCount(moult_u32* word, moult_u32 wanted) {
  for (;;) {
    moult_u32 seen = __atomic_load_n(word, __ATOMIC_ACQUIRE);
    if (seen >= wanted) return seen;
    Syscall(__NR_futex, (moult_u64)word, FUTEX_WAIT, seen, 0, 0, 0);
  }
}

static moult_s64 Copy(const struct MoultCopy* copies, moult_u64 count, moult_u64 base) {
  for (moult_u64 i = 0; i < count; i++) {
    moult_u64 to = copies[i].to, from = base + copies[i].from, words = copies[i].length / 8;
    __asm__ volatile("rep movsq" : "+D"(to), "+S"(from), "+c"(words) : : "memory");
  }
  return 0;
}

static void Run(struct MoultProgram* program) {
  for (; program->pc < program->count; program->pc++) {
    struct MoultOp* op = &program->ops[program->pc];
    moult_u64 arg[6];
    for (unsigned i = 0; i < 6; i++) {
      arg[i] = (op->refs >> i & 1) ? (moult_u64)program->ops[op->arg[i]].result : op->arg[i];
    }
    if (op->nr < kPseudoBase) {
      op->result = Syscall(op->nr, arg[0], arg[1], arg[2], arg[3], arg[4], arg[5]);
    } else if (op->nr == kPseudoClone) {
      op->result = Clone(arg[0], arg[1]);
    } else if (op->nr == kPseudoCopy) {
      op->result = Copy((const struct MoultCopy*)arg[0], arg[1], arg[2]);
    } else {
      op->result = WaitCount((moult_u32*)arg[0], (moult_u32)arg[1]);
    }
    int failed = (op->flags & kOpExpect) ? op->result != op->expect
                                         : (op->result < 0 && op->result >= -4095);
    if (failed && !(op->flags & kOpMayFail)) {
      program->failed = program->pc + 1;
      break;
    }
  }
  if (program->ready) {
    __atomic_add_fetch((moult_u32*)program->ready, 1, __ATOMIC_RELEASE);
    Syscall(__NR_futex, program->ready, FUTEX_WAKE, 0x7fffffff, 0, 0, 0);
  }
}

__attribute__((used)) void MoultThreadMain(struct MoultProgram* program) {
  Run(program);
  for (;;) Syscall(__NR_futex, program->park, FUTEX_WAIT, 0, 0, 0, 0);
}

__attribute__((used)) void MoultRun(struct MoultProgram* program) {
  Run(program);
  for (;;) __asm__ volatile("int3");
}

/* Linux's siginfo_t begins with si_signo; nothing else is needed here. */
__attribute__((used)) void MoultInitMain(struct MoultInit* init) {
  for (moult_u64 i = 0; i < init->unmap_count; i++) {
    Syscall(__NR_munmap, init->unmap[i][0], init->unmap[i][1], 0, 0, 0, 0);
  }
  __atomic_store_n(&init->ready, 1, __ATOMIC_RELEASE);
  Syscall(__NR_futex, (moult_u64)&init->ready, FUTEX_WAKE, 1, 0, 0, 0);
  moult_u64 all = ~0ul;
  for (;;) {
    moult_s64 sig = Syscall(__NR_rt_sigtimedwait, (moult_u64)&all, 0, 0, 8, 0, 0);
    moult_u32 child = __atomic_load_n(&init->child, __ATOMIC_ACQUIRE);
    if (sig == MOULT_MAKER_ENDED) {
      /* Killed before there was a function to look after, or while others were made together with it: the
       * sandbox goes with it. */
      if (!child || !__atomic_load_n(&init->kept, __ATOMIC_ACQUIRE)) Syscall(__NR_exit_group, 1, 0, 0, 0, 0, 0);
      continue;
    }
    if (sig != 17 /* SIGCHLD */) {
      if (sig > 0 && child) Syscall(__NR_kill, child, (moult_u64)sig, 0, 0, 0, 0);
      continue;
    }
    /* One that ends before the maker has told of it stays a zombie until then, else nobody would notice. */
    if (!child) continue;
    for (;;) {
      int status = 0;
      moult_s64 pid = Syscall(__NR_wait4, ~0ul, (moult_u64)&status, 1 /* WNOHANG */, 0, 0, 0);
      if (pid <= 0) break;
      if (pid == child) {
        init->status = (moult_u32)status;
        __atomic_store_n(&init->ended, 1, __ATOMIC_RELEASE);
        int code = (status & 0x7f) ? 128 + (status & 0x7f) : (status >> 8) & 0xff;
        Syscall(__NR_exit_group, (moult_u64)code, 0, 0, 0, 0, 0);
      }
    }
  }
}

/* The header is assembled with offsets relative to itself, so the flat binary needs no relocation. */
__asm__(
    ".section .header, \"ax\"\n"
    ".globl moult_blob_start\n"
    "moult_blob_start:\n"
    ".quad 0x31304c424c554f4d\n"
    ".quad MoultRun - moult_blob_start\n"
    ".quad MoultInitMain - moult_blob_start\n"
    ".previous\n");
