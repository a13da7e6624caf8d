// SPDX-License-Identifier: Apache-2.0
//
// Periodic POSIX timers of CLOCK_REALTIME, CLOCK_MONOTONIC and CLOCK_BOOTTIME go on.
#include "victim.h"

static atomic_int fired[3];
static void OnTimer(int number, siginfo_t* info, void* context) {
  (void)number, (void)context;
  fired[info->si_value.sival_int]++;
}

int main(int argc, char** argv) {
  VictimInit(argc, argv);
  static const clockid_t kClocks[] = {CLOCK_REALTIME, CLOCK_MONOTONIC, CLOCK_BOOTTIME};
  const int flags = SA_SIGINFO | SA_RESTART;
  SYS(sigaction(SIGRTMIN + 3, &(struct sigaction){.sa_sigaction = OnTimer, .sa_flags = flags}, NULL));
  for (int i = 0; i < 3; i++) {
    struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGRTMIN + 3};
    event.sigev_value.sival_int = i;
    timer_t timer;
    SYS(timer_create(kClocks[i], &event, &timer));
    const struct itimerspec time = {{0, 15000000}, {0, 15000000}};
    SYS(timer_settime(timer, 0, &time, NULL));
  }
  while (fired[0] < 2 || fired[1] < 2 || fired[2] < 2) VictimSleepMs(1);
  VictimReady();
  for (int i = 0; i < 3; i++) {
    const int before = fired[i];
    while (fired[i] < before + 3) VictimSleepMs(1);
  }
  VictimPass();
}
