// SPDX-License-Identifier: Apache-2.0
//
// A System V semaphore that the process used, with SEM_UNDO: refused, and its value stays.
#include <sys/sem.h>

#include "victim.h"

int main(int argc, char** argv) {
  VictimInit(argc, argv);
  const int set = (int)SYS(semget(IPC_PRIVATE, 2, IPC_CREAT | 0600));
  struct sembuf give = {1, 3, SEM_UNDO};
  SYS(semop(set, &give, 1));
  VictimReady();
  const int value = semctl(set, 1, GETVAL);
  const int last = semctl(set, 1, GETPID);
  SYS(semctl(set, 0, IPC_RMID));
  CHECK_EQ(value, 3);
  CHECK_EQ(last, getpid());
  VictimPass();
}
