/* SPDX-License-Identifier: Apache-2.0
 *
 * Syscall programs: what the agent wants done *inside* another process, as data. The agent (C++) builds a
 * program, the parasite (freestanding C, interpreter.c) runs it. Shared by both, so plain C.
 */
#ifndef MOULT_PARASITE_PROGRAM_H_
#define MOULT_PARASITE_PROGRAM_H_

#ifdef __cplusplus
extern "C" {
#endif

typedef unsigned int moult_u32;
typedef unsigned long moult_u64;
typedef long moult_s64;

enum {
  /* The program goes on whatever the call returns. */
  kOpMayFail = 1u << 0,
  /* The call must return exactly `expect`; otherwise any result outside -4095..-1 is success. */
  kOpExpect = 1u << 1
};

enum {
  kPseudoBase = 0x10000,
  /* Starts a thread: arg0 = struct clone_args*, arg1 = its size, arg2 = the thread's program, which was
   * also put as the topmost word of the new stack. */
  kPseudoClone = kPseudoBase,
  /* Waits until *(u32*)arg0 == arg1 (futex wait on it). */
  kPseudoWaitCount,
  /* arg1 copies: arg0 = struct MoultCopy*, sources are offsets from arg2. */
  kPseudoCopy
};

struct MoultCopy {
  moult_u64 to;
  moult_u64 from;
  moult_u64 length; /* a multiple of 8 */
};

struct MoultOp {
  moult_u32 nr;        /* __NR_* or kPseudo* */
  unsigned short refs; /* bit i: arg[i] is the index of an earlier op, whose result is meant */
  unsigned short flags;
  moult_u64 arg[6];
  moult_s64 expect;
  moult_s64 result; /* written by the interpreter: as the kernel returns it, -errno on failure */
};

struct MoultProgram {
  moult_u64 count;
  moult_u64 pc;     /* next op; count when the program has ended well */
  moult_u64 failed; /* 0, or 1 + index of the op that failed */
  moult_u64 ready;  /* address of a u32 to increment and wake at the end, or 0 */
  moult_u64 park;   /* threads: address of a u32 to wait on for ever, or 0 */
  struct MoultOp ops[];
};

/* The first bytes of the blob: offsets of its entry points from its start. */
struct MoultBlobHeader {
  moult_u64 magic;
  moult_u64 run;   /* run(rdi = program): runs it, then int3 */
  moult_u64 init;  /* init(rdi = struct MoultInit*): becomes pid 1 of a sandbox, never returns */
};
#define MOULT_BLOB_MAGIC 0x31304c424c554f4dul /* "MOULBL01" */

/* The signal by which a sandbox's init learns that its maker has ended; never forwarded. */
#define MOULT_MAKER_ENDED 63

/* Work of a sandbox's pid 1: unmap [unmap[i].start, +length), then reap children and forward signals to
 * `child` (pid inside the namespace, 0 until known), ending with its status. */
struct MoultInit {
  moult_u64 unmap_count;
  moult_u64 unmap[6][2];
  moult_u32 ready; /* set to 1 and woken when nothing of the maker's memory is mapped any more */
  moult_u32 child; /* set by the maker, which then sends SIGCHLD: nothing is reaped before */
  moult_u32 kept;  /* set by the maker: the sandbox, with a child in it, outlives it */
  moult_u32 status; /* the child's wait status, when `ended` */
  moult_u32 ended;
};

#ifdef __cplusplus
}
#endif

#endif /* MOULT_PARASITE_PROGRAM_H_ */
