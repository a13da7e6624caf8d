// SPDX-License-Identifier: Apache-2.0
//
// Captured inside a handler that runs on the alternate stack: it goes on there, returns, and can run again.
#include "victim.h"

static char* stack;
static int runs;

static void OnSignal(int number) {
  (void)number;
  char here;
  char* volatile at = &here;
  stack_t now;
  CHECK(at >= stack && at < stack + 131072, "handler is not on the alternate stack");
  SYS(sigaltstack(NULL, &now));
  CHECK_EQ(now.ss_flags, SS_ONSTACK);
  if (runs++ == 0) VictimReady();
  SYS(sigaltstack(NULL, &now));
  CHECK_EQ(now.ss_flags, SS_ONSTACK);
  CHECK_ERRNO(sigaltstack(&(stack_t){.ss_flags = SS_DISABLE}, NULL), EPERM);
}

int main(int argc, char** argv) {
  VictimInit(argc, argv);
  stack = VictimAnon(131072);
  SYS(sigaltstack(&(stack_t){.ss_sp = stack, .ss_size = 131072}, NULL));
  SYS(sigaction(SIGUSR1, &(struct sigaction){.sa_handler = OnSignal, .sa_flags = SA_ONSTACK}, NULL));
  SYS(raise(SIGUSR1));
  SYS(raise(SIGUSR1));
  CHECK_EQ(runs, 2);
  VictimPass();
}
