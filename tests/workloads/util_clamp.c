// SPDX-License-Identifier: Apache-2.0
//
// Utilisation clamps of a thread (uclamp), which others do not have.
#include "victim.h"

struct Attributes {
  uint32_t size, policy;
  uint64_t flags;
  int32_t nice;
  uint32_t priority;
  uint64_t runtime, deadline, period;
  uint32_t util_min, util_max;
};
enum { kKeepAll = 0x18, kClampMin = 0x20, kClampMax = 0x40 };  // SCHED_FLAG_*
static int ends[2];

static struct Attributes Current(void) {
  struct Attributes now = {0};
  SYS(syscall(SYS_sched_getattr, 0, &now, sizeof(now), 0));
  return now;
}

static void* Thread(void* unused) {
  char byte;
  struct Attributes clamps = {
      .size = sizeof(clamps), .flags = kKeepAll | kClampMin | kClampMax, .util_min = 100, .util_max = 700};
  if (syscall(SYS_sched_setattr, 0, &clamps, 0) < 0) VictimSkip("sched_setattr: %s", strerror(errno));
  SYS(read(ends[0], &byte, 1));
  CHECK_EQ(Current().util_min, 100);
  CHECK_EQ(Current().util_max, 700);
  return unused;
}

int main(int argc, char** argv) {
  VictimInit(argc, argv);
  struct VictimThread thread;
  const struct Attributes before = Current();
  SYS(pipe(ends));
  VictimSpawn(&thread, Thread, NULL);
  VictimAwaitBlocked(thread.tid, SYS_read);
  VictimReady();
  CHECK_EQ(Current().util_min, before.util_min);
  CHECK_EQ(Current().util_max, before.util_max);
  SYS(write(ends[1], "x", 1));
  VictimJoin(&thread);
  VictimPass();
}
