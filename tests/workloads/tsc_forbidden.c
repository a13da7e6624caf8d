// SPDX-License-Identifier: Apache-2.0
//
// PR_SET_TSC: reading the time stamp counter raises SIGSEGV in the thread that asked for it.
#include <setjmp.h>
#include <sys/prctl.h>

#include "victim.h"

static sigjmp_buf escape;
static void OnFault(int number) { siglongjmp(escape, number); }
static int ends[2];

static void* Thread(void* unused) {
  char byte;
  SYS(prctl(PR_SET_TSC, PR_TSC_SIGSEGV));
  SYS(read(ends[0], &byte, 1));  // and no clock of the vdso from here on
  int mode = 0;
  SYS(prctl(PR_GET_TSC, &mode));
  CHECK_EQ(mode, PR_TSC_SIGSEGV);
  if (sigsetjmp(escape, 1) == 0) {
    __builtin_ia32_rdtsc();
    FAIL("rdtsc did not fault");
  }
  SYS(prctl(PR_SET_TSC, PR_TSC_ENABLE));
  return unused;
}

// Hypervisors exist that let every program read it, whatever the kernel has asked the processor for.
static void NeedFault(void) {
  SYS(prctl(PR_SET_TSC, PR_TSC_SIGSEGV));
  if (sigsetjmp(escape, 1) == 0) {
    __builtin_ia32_rdtsc();
    VictimSkip("this machine's processor does not enforce PR_TSC_SIGSEGV");
  }
  SYS(prctl(PR_SET_TSC, PR_TSC_ENABLE));
}

int main(int argc, char** argv) {
  VictimInit(argc, argv);
  struct VictimThread thread;
  SYS(pipe(ends));
  SYS(sigaction(SIGSEGV, &(struct sigaction){.sa_handler = OnFault}, NULL));
  NeedFault();
  VictimSpawn(&thread, Thread, NULL);
  VictimAwaitBlocked(thread.tid, SYS_read);
  VictimReady();
  int mode = 0;
  SYS(prctl(PR_GET_TSC, &mode));
  CHECK_EQ(mode, PR_TSC_ENABLE);
  SYS(write(ends[1], "x", 1));
  VictimJoin(&thread);
  VictimPass();
}
