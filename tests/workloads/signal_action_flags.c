// SPDX-License-Identifier: Apache-2.0
//
// What the flags of a handler do: SA_RESETHAND, SA_NODEFER, SA_SIGINFO, SA_RESTART and the mask.
#include "victim.h"

static volatile sig_atomic_t once, depth, deepest, masked;

static void Once(int number) {
  (void)number;
  once++;
}
static void Nested(int number) {
  depth++;
  if (depth > deepest) deepest = depth;
  if (depth < 3) raise(number);
  depth--;
}
static void Masked(int number, siginfo_t* info, void* context) {
  sigset_t now;
  sigprocmask(SIG_BLOCK, NULL, &now);
  masked =
      info->si_signo == number && context != NULL && sigismember(&now, SIGHUP) && sigismember(&now, number);
}

int main(int argc, char** argv) {
  VictimInit(argc, argv);
  SYS(sigaction(SIGURG, &(struct sigaction){.sa_handler = Once, .sa_flags = (int)SA_RESETHAND}, NULL));
  SYS(sigaction(SIGUSR1, &(struct sigaction){.sa_handler = Nested, .sa_flags = SA_NODEFER}, NULL));
  struct sigaction action = {.sa_sigaction = Masked, .sa_flags = SA_SIGINFO | SA_RESTART};
  sigaddset(&action.sa_mask, SIGHUP);
  SYS(sigaction(SIGUSR2, &action, NULL));
  VictimReady();
  SYS(raise(SIGURG));
  SYS(raise(SIGURG));  // ignored by default now
  CHECK_EQ(once, 1);
  SYS(raise(SIGUSR1));
  CHECK_EQ(deepest, 3);
  SYS(raise(SIGUSR2));
  CHECK(masked, "mask or siginfo of the SIGUSR2 handler is wrong");
  VictimPass();
}
