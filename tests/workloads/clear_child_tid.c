// SPDX-License-Identifier: Apache-2.0
//
// A bare clone(2) thread: the kernel clears and wakes the word of set_tid_address when it ends.
#include <linux/futex.h>
#include <sched.h>

#include "victim.h"

static int ends[2];
static volatile pid_t tid_word, other_word = 1;
static volatile pid_t started;

static int Bare(void* unused) {
  (void)unused;
  char byte;
  syscall(SYS_set_tid_address, &other_word);
  started = (pid_t)syscall(SYS_gettid);
  syscall(SYS_read, ends[0], &byte, 1);
  return 0;
}

int main(int argc, char** argv) {
  VictimInit(argc, argv);
  SYS(pipe(ends));
  char* stack = VictimAnon(65536);
  const int flags = CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM |
                    CLONE_CHILD_SETTID | CLONE_CHILD_CLEARTID;
  SYS(clone(Bare, stack + 65536, flags, NULL, NULL, NULL, &tid_word));
  while (started == 0) VictimSleepMs(1);
  VictimAwaitBlocked(started, SYS_read);
  VictimReady();
  CHECK_EQ(tid_word, started);
  SYS(write(ends[1], "x", 1));
  while (other_word != 0) {
    if (syscall(SYS_futex, &other_word, FUTEX_WAIT, 1, NULL, NULL, 0) != 0) CHECK_EQ(errno, EAGAIN);
  }
  CHECK_EQ(tid_word, started);  // the first address was replaced
  VictimPass();
}
