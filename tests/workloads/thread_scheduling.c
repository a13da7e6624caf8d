// SPDX-License-Identifier: Apache-2.0
//
// Policy, nice value, reset-on-fork flag and priority of each thread.
#include <sched.h>
#include <sys/resource.h>

#include "victim.h"

static const struct {
  int policy, priority, nice;
} kWanted[] = {{SCHED_BATCH, 0, 3}, {SCHED_IDLE, 0, 0}, {SCHED_OTHER | SCHED_RESET_ON_FORK, 0, 7},
               {SCHED_FIFO, 1, 0},  {SCHED_RR, 2, 0},   {SCHED_OTHER, 0, -5}};
enum { kCount = 6 };
static bool set[kCount];
static int ends[2];

static void* Thread(void* argument) {
  const intptr_t i = (intptr_t)argument;
  const struct sched_param parameter = {kWanted[i].priority};
  struct sched_param now;
  char byte;
  set[i] = sched_setscheduler(0, kWanted[i].policy, &parameter) == 0;
  if (!set[i]) CHECK_EQ(errno, EPERM);  // real-time policies may be forbidden here
  if (set[i] && kWanted[i].nice != 0) SYS(setpriority(PRIO_PROCESS, (id_t)VictimGettid(), kWanted[i].nice));
  SYS(read(ends[0], &byte, 1));
  if (!set[i]) return NULL;
  CHECK_EQ(SYS(sched_getscheduler(0)), kWanted[i].policy);
  SYS(sched_getparam(0, &now));
  CHECK_EQ(now.sched_priority, kWanted[i].priority);
  errno = 0;
  CHECK_EQ(getpriority(PRIO_PROCESS, (id_t)VictimGettid()), kWanted[i].nice);
  return NULL;
}

int main(int argc, char** argv) {
  VictimInit(argc, argv);
  VictimNeedRoot();  // for a nice value below 0
  struct VictimThread threads[kCount];
  SYS(pipe(ends));
  SYS(setpriority(PRIO_PROCESS, 0, 0));
  for (intptr_t i = 0; i < kCount; i++) VictimSpawn(&threads[i], Thread, (void*)i);
  for (int i = 0; i < kCount; i++) VictimAwaitBlocked(threads[i].tid, SYS_read);
  VictimReady();
  CHECK_EQ(SYS(sched_getscheduler(0)), SCHED_OTHER);
  CHECK_EQ(getpriority(PRIO_PROCESS, 0), 0);
  SYS(write(ends[1], "xxxxxx", kCount));
  for (int i = 0; i < kCount; i++) VictimJoin(&threads[i]);
  VictimPass();
}
