// SPDX-License-Identifier: Apache-2.0
//
// A thread that waits for a System V semaphore that its process never changed: refused, and it waits on.
// EINTR is allowed: Linux gives it after SIGCONT too.
#include <sys/sem.h>

#include "victim.h"

static int set;

static void* Waiter(void* unused) {
  struct sembuf take = {0, -1, 0};
  while (syscall(SYS_semop, set, &take, 1) < 0) CHECK_EQ(errno, EINTR);
  return unused;
}

int main(int argc, char** argv) {
  VictimInit(argc, argv);
  struct VictimThread waiter;
  set = (int)SYS(semget(IPC_PRIVATE, 1, IPC_CREAT | 0600));
  VictimSpawn(&waiter, Waiter, NULL);
  VictimAwaitBlocked(waiter.tid, SYS_semop);
  VictimReady();
  const int waiting = semctl(set, 0, GETNCNT);
  struct sembuf give = {0, 1, 0};
  SYS(semop(set, &give, 1));
  VictimJoin(&waiter);
  SYS(semctl(set, 0, IPC_RMID));
  CHECK_EQ(waiting, 1);
  VictimPass();
}
