// SPDX-License-Identifier: Apache-2.0
//
// A thread that spins inside a restartable sequence: interrupted there, it goes on in the abort handler, and
// never inside. The kernel forgets a sequence that it left without an abort, which shows inside, as another
// CPU does.
#include <sys/rseq.h>

#include "victim.h"

static atomic_bool leave;
static volatile uint64_t entries, aborts, commits, torn;

// Enters a sequence that ends when `leave` is set; true when it was aborted.
__attribute__((noinline)) static bool SpinInSequence(volatile struct rseq* area) {
  __asm__ goto(
      ".pushsection .data.rseq_cs, \"aw\"\n"
      ".balign 32\n"
      "9: .long 0, 0\n"  // version, flags
      ".quad 1f, 2f - 1f, 4f\n"
      ".popsection\n"
      "leaq 9b(%%rip), %%rax\n"
      "movl 4(%0), %%ecx\n"  // cpu_id
      "movq %%rax, 8(%0)\n"  // rseq_cs
      "1: cmpl %%ecx, 4(%0)\n"
      "jne %l[on_abort]\n"  // moved before the sequence began
      "5: cmpq %%rax, 8(%0)\n"
      "jne 3f\n"
      "cmpl %%ecx, 4(%0)\n"
      "jne 3f\n"
      "pause\n"
      "cmpb $0, %1\n"
      "je 5b\n"
      "2: jmp 6f\n"
      "3: incq %2\n"
      "jmp 6f\n"
      ".long 0x53053053\n"  // RSEQ_SIG, without which the kernel does not abort to here
      "4: jmp %l[on_abort]\n"
      "6:\n"
      :
      : "r"(area), "m"(leave), "m"(torn)
      : "rax", "rcx", "memory", "cc"
      : on_abort);
  return false;
on_abort:
  return true;
}

static void* Spinner(void* unused) {
  volatile struct rseq* area = (volatile struct rseq*)((char*)__builtin_thread_pointer() + __rseq_offset);
  do {
    entries++;
    if (SpinInSequence(area)) {
      aborts++;
    } else {
      commits++;
    }
  } while (!leave);
  return unused;
}

static void OnSignal(int number) { (void)number; }

// A handled signal aborts the sequence, when the thread is inside.
static void Abort(const struct VictimThread* thread) {
  for (const uint64_t before = aborts; aborts == before; VictimSleepMs(1))
    PTHREAD(pthread_kill(thread->handle, SIGUSR1));
}

int main(int argc, char** argv) {
  VictimInit(argc, argv);
  if (__rseq_size == 0) VictimSkip("no rseq");
  struct VictimThread spinner;
  SYS(sigaction(SIGUSR1, &(struct sigaction){.sa_handler = OnSignal}, NULL));
  VictimSpawn(&spinner, Spinner, NULL);
  Abort(&spinner);
  VictimReady();
  Abort(&spinner);
  leave = true;
  VictimJoin(&spinner);
  CHECK_EQ(torn, 0);
  CHECK(commits <= 1, "%llu commits", (unsigned long long)commits);
  CHECK_EQ(aborts + commits, entries);
  VictimPass();
}
