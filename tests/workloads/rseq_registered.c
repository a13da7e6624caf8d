// SPDX-License-Identifier: Apache-2.0
//
// The rseq area stays registered: the kernel keeps cpu_id up to date when the thread moves.
#include <sched.h>
#include <sys/rseq.h>

#include "victim.h"

static volatile struct rseq* Area(void) {
  return (volatile struct rseq*)((char*)__builtin_thread_pointer() + __rseq_offset);
}

static void FollowsCpu(void) {
  cpu_set_t all, one;
  SYS(sched_getaffinity(0, sizeof(all), &all));
  for (unsigned cpu = 0; cpu < CPU_SETSIZE; cpu++) {
    if (!CPU_ISSET(cpu, &all)) continue;
    CPU_ZERO(&one);
    CPU_SET(cpu, &one);
    SYS(sched_setaffinity(0, sizeof(one), &one));
    CHECK_EQ(Area()->cpu_id, cpu);
    CHECK_EQ(Area()->cpu_id_start, cpu);
  }
  SYS(sched_setaffinity(0, sizeof(all), &all));
}

static atomic_bool go_on;

static void* Other(void* unused) {
  while (!go_on) VictimSleepMs(5);
  FollowsCpu();
  return unused;
}

int main(int argc, char** argv) {
  VictimInit(argc, argv);
  struct VictimThread other;
  if (__rseq_size == 0) VictimSkip("no rseq");
  FollowsCpu();
  VictimSpawn(&other, Other, NULL);
  VictimReady();
  FollowsCpu();
  go_on = true;
  VictimJoin(&other);
  // Registering again at the same place must say that it is registered.
  CHECK_ERRNO(syscall(SYS_rseq, Area(), 32, 0, RSEQ_SIG), EBUSY);
  VictimPass();
}
