// SPDX-License-Identifier: Apache-2.0
//
// Threads keep their tids: libc's cached ones, gettid, and signals to them agree.
#include "victim.h"

static _Thread_local atomic_int hits;
static void OnSignal(int number) {
  (void)number;
  hits++;
}

static int ends[2];

static void* Thread(void* unused) {
  const pid_t tid = VictimGettid();
  char byte;
  SYS(read(ends[0], &byte, 1));
  CHECK_EQ(VictimGettid(), tid);
  CHECK_EQ(gettid(), tid);
  SYS(syscall(SYS_tgkill, getpid(), tid, SIGUSR1));
  PTHREAD(pthread_kill(pthread_self(), SIGUSR1));
  CHECK_EQ(hits, 2);
  return unused;
}

int main(int argc, char** argv) {
  VictimInit(argc, argv);
  struct VictimThread threads[5];
  SYS(pipe(ends));
  SYS(sigaction(SIGUSR1, &(struct sigaction){.sa_handler = OnSignal}, NULL));
  for (int i = 0; i < 5; i++) VictimSpawn(&threads[i], Thread, NULL);
  for (int i = 0; i < 5; i++) VictimAwaitBlocked(threads[i].tid, SYS_read);
  VictimReady();
  CHECK_EQ(gettid(), getpid());
  for (int i = 0; i < 5; i++) {
    char path[64];
    snprintf(path, sizeof(path), "/proc/self/task/%d", threads[i].tid);
    SYS(access(path, F_OK));
  }
  SYS(write(ends[1], "xxxxx", 5));
  for (int i = 0; i < 5; i++) VictimJoin(&threads[i]);
  CHECK_EQ(hits, 0);
  VictimPass();
}
