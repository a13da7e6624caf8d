// SPDX-License-Identifier: Apache-2.0
//
// A filter that allows only what this program needs, set for all threads with TSYNC.
#include "seccomp.inc"
#include "victim.h"

static int ends[2];

static void* Thread(void* unused) {
  char byte;
  SYS(read(ends[0], &byte, 1));
  CHECK_ERRNO(syscall(SYS_sync), EPERM);
  return unused;
}

int main(int argc, char** argv) {
  VictimInit(argc, argv);
  VictimNeedRoot();
  struct VictimThread thread;
  SYS(pipe(ends));
  VictimSpawn(&thread, Thread, NULL);
  VictimAwaitBlocked(thread.tid, SYS_read);
  static const int kAllowed[] = {SYS_read,           SYS_write,        SYS_openat,          SYS_open,
                                 SYS_close,          SYS_access,       SYS_rename,          SYS_getpid,
                                 SYS_futex,          SYS_madvise,      SYS_clock_nanosleep, SYS_exit,
                                 SYS_munmap,         SYS_mmap,         SYS_mprotect,        SYS_exit_group,
                                 SYS_rt_sigprocmask, SYS_rt_sigreturn, SYS_restart_syscall, SYS_faccessat,
                                 SYS_unlink,         SYS_rseq};
  AllowOnly(kAllowed, sizeof(kAllowed) / sizeof(kAllowed[0]), SECCOMP_FILTER_FLAG_TSYNC);
  CHECK_ERRNO(syscall(SYS_sync), EPERM);
  VictimReady();
  CHECK_ERRNO(syscall(SYS_sync), EPERM);
  CHECK_ERRNO(syscall(SYS_getppid), EPERM);
  SYS(write(ends[1], "x", 1));
  VictimJoin(&thread);
  VictimPass();
}
