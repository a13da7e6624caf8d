// SPDX-License-Identifier: Apache-2.0
//
// The CPU set of each thread.
#include <sched.h>

#include "victim.h"

static int ends[2];
static int cpus[2];

static void Pin(int cpu) {
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET((unsigned)cpu, &set);
  SYS(sched_setaffinity(0, sizeof(set), &set));
}

static void CheckPinned(int cpu) {
  cpu_set_t set;
  SYS(sched_getaffinity(0, sizeof(set), &set));
  CHECK_EQ(CPU_COUNT(&set), 1);
  CHECK(CPU_ISSET((unsigned)cpu, &set), "not on cpu %d", cpu);
}

static void* Thread(void* argument) {
  char byte;
  Pin(*(int*)argument);
  SYS(read(ends[0], &byte, 1));
  CheckPinned(*(int*)argument);
  return NULL;
}

int main(int argc, char** argv) {
  VictimInit(argc, argv);
  struct VictimThread thread;
  cpu_set_t all;
  SYS(pipe(ends));
  SYS(sched_getaffinity(0, sizeof(all), &all));
  if (CPU_COUNT(&all) < 2) VictimSkip("one CPU only");
  for (int cpu = CPU_SETSIZE - 1, found = 0; cpu >= 0; cpu--) {
    if (CPU_ISSET((unsigned)cpu, &all)) cpus[found++ % 2] = cpu;
  }
  Pin(cpus[0]);
  VictimSpawn(&thread, Thread, &cpus[1]);
  VictimAwaitBlocked(thread.tid, SYS_read);
  VictimReady();
  CheckPinned(cpus[0]);
  SYS(write(ends[1], "x", 1));
  VictimJoin(&thread);
  VictimPass();
}
