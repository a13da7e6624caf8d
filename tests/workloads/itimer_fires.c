// SPDX-License-Identifier: Apache-2.0
//
// Short interval timers of all three kinds go on firing.
#include <sys/time.h>

#include "victim.h"

static atomic_int fired[3];
static void OnTimer(int number) { fired[number == SIGALRM ? 0 : number == SIGVTALRM ? 1 : 2]++; }

int main(int argc, char** argv) {
  VictimInit(argc, argv);
  static const int kSignals[] = {SIGALRM, SIGVTALRM, SIGPROF};
  for (int i = 0; i < 3; i++) {
    SYS(sigaction(kSignals[i], &(struct sigaction){.sa_handler = OnTimer, .sa_flags = SA_RESTART}, NULL));
    const struct itimerval timer = {{0, 10000}, {0, 10000}};
    SYS(setitimer(i, &timer, NULL));
  }
  VictimReady();
  for (int i = 0; i < 3; i++) {
    const int before = fired[i];
    while (fired[i] < before + 3) {
    }
  }
  VictimPass();
}
