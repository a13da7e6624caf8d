// SPDX-License-Identifier: Apache-2.0
//
// The alternate signal stack of each thread, and a handler that runs on it afterwards.
#include "victim.h"

static _Thread_local void* stack_of_thread;
static atomic_int handled;
static int ends[2];

static void OnSignal(int number) {
  (void)number;
  char here;
  char* volatile at = &here;
  if (at >= (char*)stack_of_thread && at < (char*)stack_of_thread + 65536) handled++;
}

static void SetStack(void) {
  stack_of_thread = VictimAnon(65536);
  SYS(sigaltstack(&(stack_t){.ss_sp = stack_of_thread, .ss_size = 65536}, NULL));
}

static void CheckStack(void) {
  stack_t now;
  SYS(sigaltstack(NULL, &now));
  CHECK(now.ss_sp == stack_of_thread, "stack at %p, not %p", now.ss_sp, stack_of_thread);
  CHECK_EQ(now.ss_size, 65536);
  CHECK_EQ(now.ss_flags, 0);
  PTHREAD(pthread_kill(pthread_self(), SIGUSR1));
}

static void* Thread(void* unused) {
  char byte;
  SetStack();
  SYS(read(ends[0], &byte, 1));
  CheckStack();
  return unused;
}

int main(int argc, char** argv) {
  VictimInit(argc, argv);
  struct VictimThread threads[3];
  SYS(pipe(ends));
  SYS(sigaction(SIGUSR1, &(struct sigaction){.sa_handler = OnSignal, .sa_flags = SA_ONSTACK}, NULL));
  SetStack();
  for (int i = 0; i < 3; i++) VictimSpawn(&threads[i], Thread, NULL);
  for (int i = 0; i < 3; i++) VictimAwaitBlocked(threads[i].tid, SYS_read);
  VictimReady();
  CheckStack();
  SYS(write(ends[1], "xxx", 3));
  for (int i = 0; i < 3; i++) VictimJoin(&threads[i]);
  CHECK_EQ(handled, 4);
  VictimPass();
}
