// SPDX-License-Identifier: Apache-2.0
//
// SCHED_DEADLINE of a thread: runtime, deadline and period.
#include "victim.h"

struct Attributes {
  uint32_t size, policy;
  uint64_t flags;
  int32_t nice;
  uint32_t priority;
  uint64_t runtime, deadline, period;
};
enum { kDeadline = 6 };
static int ends[2];

static void* Thread(void* unused) {
  char byte;
  struct Attributes wanted = {.size = sizeof(wanted),
                              .policy = kDeadline,
                              .runtime = 2000000,
                              .deadline = 30000000,
                              .period = 50000000};
  if (syscall(SYS_sched_setattr, 0, &wanted, 0) < 0) VictimSkip("sched_setattr: %s", strerror(errno));
  SYS(read(ends[0], &byte, 1));
  struct Attributes now = {0};
  SYS(syscall(SYS_sched_getattr, 0, &now, sizeof(now), 0));
  CHECK_EQ(now.policy, kDeadline);
  CHECK_EQ(now.runtime, 2000000);
  CHECK_EQ(now.deadline, 30000000);
  CHECK_EQ(now.period, 50000000);
  return unused;
}

int main(int argc, char** argv) {
  VictimInit(argc, argv);
  VictimNeedRoot();
  struct VictimThread thread;
  SYS(pipe(ends));
  VictimSpawn(&thread, Thread, NULL);
  VictimAwaitBlocked(thread.tid, SYS_read);
  VictimReady();
  SYS(write(ends[1], "x", 1));
  VictimJoin(&thread);
  VictimPass();
}
