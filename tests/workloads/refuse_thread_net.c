// SPDX-License-Identifier: Apache-2.0
//
// A thread with a net namespace of its own (unshare): refused, and it keeps it.
#include <sched.h>

#include "victim.h"

static int ends[2];

static void ReadName(const char* path, char* name, size_t size) {
  memset(name, 0, size);
  SYS(readlink(path, name, size - 1));
}

static void* Thread(void* unused) {
  char byte, inside[64], after[64];
  if (unshare(CLONE_NEWNET) < 0) VictimSkip("unshare: %s", strerror(errno));
  ReadName("/proc/thread-self/ns/net", inside, sizeof(inside));
  SYS(read(ends[0], &byte, 1));
  ReadName("/proc/thread-self/ns/net", after, sizeof(after));
  CHECK_STR(after, inside);
  return unused;
}

int main(int argc, char** argv) {
  VictimInit(argc, argv);
  struct VictimThread thread;
  SYS(pipe(ends));
  VictimSpawn(&thread, Thread, NULL);
  VictimAwaitBlocked(thread.tid, SYS_read);
  VictimReady();
  SYS(write(ends[1], "x", 1));
  VictimJoin(&thread);
  VictimPass();
}
