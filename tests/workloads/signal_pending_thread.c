// SPDX-License-Identifier: Apache-2.0
//
// Signals pending for one thread only reach that thread, those for the process any.
#include "victim.h"

static int ends[2];
static sigset_t both;

static bool Pending(int number) {
  sigset_t pending;
  SYS(sigpending(&pending));
  return sigismember(&pending, number) == 1;
}

static void* Thread(void* argument) {
  const bool directed = argument != NULL;
  char byte;
  siginfo_t info;
  SYS(read(ends[0], &byte, 1));
  CHECK_EQ(Pending(SIGUSR1), directed);
  CHECK(Pending(SIGUSR2), "the process's signal is gone");
  if (!directed) return NULL;
  const uint64_t one = 1ul << (SIGUSR1 - 1);  // by hand: libc's sigtimedwait changes si_code
  CHECK_EQ(SYS(syscall(SYS_rt_sigtimedwait, &one, &info, &(struct timespec){0, 0}, 8)), SIGUSR1);
  CHECK_EQ(info.si_code, SI_TKILL);
  CHECK_EQ(info.si_pid, getpid());
  return NULL;
}

int main(int argc, char** argv) {
  VictimInit(argc, argv);
  struct VictimThread directed, other;
  SYS(pipe(ends));
  sigemptyset(&both);
  sigaddset(&both, SIGUSR1);
  sigaddset(&both, SIGUSR2);
  PTHREAD(pthread_sigmask(SIG_BLOCK, &both, NULL));
  VictimSpawn(&directed, Thread, (void*)1);
  VictimSpawn(&other, Thread, NULL);
  PTHREAD(pthread_kill(directed.handle, SIGUSR1));
  SYS(kill(getpid(), SIGUSR2));
  VictimAwaitBlocked(directed.tid, SYS_read);
  VictimAwaitBlocked(other.tid, SYS_read);
  VictimReady();
  CHECK(!Pending(SIGUSR1), "a thread's signal became the process's");
  SYS(write(ends[1], "xx", 2));
  VictimJoin(&directed);
  VictimJoin(&other);
  VictimPass();
}
