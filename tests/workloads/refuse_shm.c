// SPDX-License-Identifier: Apache-2.0
//
// Attached System V shared memory cannot be captured: refused, and it stays attached.
#include <sys/shm.h>

#include "victim.h"

int main(int argc, char** argv) {
  VictimInit(argc, argv);
  const int id = (int)SYS(shmget(IPC_PRIVATE, 4 * kPage, IPC_CREAT | 0600));
  char* memory = shmat(id, NULL, 0);
  SYS(shmctl(id, IPC_RMID, NULL));  // goes with the last one attached
  CHECK(memory != (char*)-1, "shmat: %s", strerror(errno));
  VictimFill(memory, 4 * kPage, 90);
  VictimReady();
  VictimVerify(memory, 4 * kPage, 90);
  struct shmid_ds status;
  SYS(shmctl(id, IPC_STAT, &status));
  CHECK_EQ(status.shm_nattch, 1);
  VictimPass();
}
