// SPDX-License-Identifier: Apache-2.0
//
// The first thread has ended, another runs on: such a process is refused.
#include "victim.h"

static pthread_t leader;

static void* Survivor(void* unused) {
  PTHREAD(pthread_join(leader, NULL));
  char path[64], state[32] = "";
  snprintf(path, sizeof(path), "/proc/%d/status", getpid());
  while (state[0] != 'Z') VictimProcField(path, "State", state, sizeof(state));
  VictimReady();
  VictimProcField(path, "State", state, sizeof(state));
  CHECK_EQ(state[0], 'Z');
  VictimPass();
  return unused;
}

int main(int argc, char** argv) {
  VictimInit(argc, argv);
  pthread_t survivor;
  leader = pthread_self();
  PTHREAD(pthread_create(&survivor, NULL, Survivor, NULL));
  pthread_exit(NULL);
}
