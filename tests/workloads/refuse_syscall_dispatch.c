// SPDX-License-Identifier: Apache-2.0
//
// A thread whose system calls can be turned into signals (PR_SET_SYSCALL_USER_DISPATCH), with the selector at
// "allow" all the time.
#include <sys/prctl.h>
#include <sys/ptrace.h>

#include "victim.h"

enum { kSetSyscallUserDispatch = 59, kDispatchOn = 1, kGetDispatch = 0x4211 };

static volatile char selector;  // SYSCALL_DISPATCH_FILTER_ALLOW

int main(int argc, char** argv) {
  VictimInit(argc, argv);
  // Before 6.4 nobody else can see it. There the request is unknown (EIO), later it is our own process that is not stopped.
  if (syscall(SYS_ptrace, kGetDispatch, getpid(), 32, NULL) < 0 && errno == EIO) VictimSkip("the kernel does not tell");
  if (prctl(kSetSyscallUserDispatch, kDispatchOn, 0, 0, &selector) < 0) VictimSkip("PR_SET_SYSCALL_USER_DISPATCH: %s", strerror(errno));
  VictimReady();
  VictimPass();
}
