// SPDX-License-Identifier: Apache-2.0
//
// poll, ppoll, select and pselect with a timeout: they return 0, and not before their time.
#include <poll.h>
#include <sys/select.h>

#include "victim.h"

static void* Wait(void* which) {
  struct timespec time = {kWaitSeconds, 0};
  struct timeval time_us = {kWaitSeconds, 0};
  const int64_t start = VictimNow(CLOCK_MONOTONIC);
  const intptr_t call = (intptr_t)which;
  long result = -1;
  if (call == SYS_poll) result = SYS(syscall(SYS_poll, NULL, 0, kWaitSeconds * 1000));
  if (call == SYS_ppoll) result = SYS(ppoll(NULL, 0, &time, NULL));
  if (call == SYS_select) result = SYS(syscall(SYS_select, 0, NULL, NULL, NULL, &time_us));
  if (call == SYS_pselect6) result = SYS(pselect(0, NULL, NULL, NULL, &time, NULL));
  CHECK_EQ(result, 0);
  const int64_t took = VictimNow(CLOCK_MONOTONIC) - start;
  CHECK(took >= WAIT_NS, "system call %ld: %d s took %lld ns", (long)call, kWaitSeconds, (long long)took);
  return NULL;
}

int main(int argc, char** argv) {
  VictimInit(argc, argv);
  static const intptr_t kCalls[] = {SYS_poll, SYS_ppoll, SYS_select, SYS_pselect6};
  struct VictimThread threads[4];
  for (int i = 0; i < 4; i++) VictimSpawn(&threads[i], Wait, (void*)kCalls[i]);
  for (int i = 0; i < 4; i++) VictimAwaitBlocked(threads[i].tid, kCalls[i]);
  VictimReady();
  for (int i = 0; i < 4; i++) VictimJoin(&threads[i]);
  VictimPass();
}
