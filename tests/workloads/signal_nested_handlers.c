// SPDX-License-Identifier: Apache-2.0
//
// Captured two handlers deep, with a floating-point value live: both return to where they were.
#include "victim.h"

static volatile sig_atomic_t trace[4], steps;
static volatile double value = 1.0;

static void Inner(int number) {
  trace[steps++] = number;
  VictimReady();
  trace[steps++] = number;
}

static void Outer(int number) {
  const double before = value * 3.5;
  trace[steps++] = number;
  raise(SIGUSR2);
  trace[steps++] = number;
  CHECK(before == value * 3.5, "a floating-point value changed");
}

int main(int argc, char** argv) {
  VictimInit(argc, argv);
  SYS(sigaction(SIGUSR1, &(struct sigaction){.sa_handler = Outer}, NULL));
  SYS(sigaction(SIGUSR2, &(struct sigaction){.sa_handler = Inner}, NULL));
  sigset_t before, after;
  SYS(sigprocmask(SIG_BLOCK, NULL, &before));
  SYS(raise(SIGUSR1));
  CHECK_EQ(steps, 4);
  CHECK_EQ(trace[0], SIGUSR1);
  CHECK_EQ(trace[1], SIGUSR2);
  CHECK_EQ(trace[2], SIGUSR2);
  CHECK_EQ(trace[3], SIGUSR1);
  SYS(sigprocmask(SIG_BLOCK, NULL, &after));
  CHECK_EQ(sigismember(&after, SIGUSR1), sigismember(&before, SIGUSR1));
  CHECK_EQ(sigismember(&after, SIGUSR2), sigismember(&before, SIGUSR2));
  VictimPass();
}
