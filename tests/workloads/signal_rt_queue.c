// SPDX-License-Identifier: Apache-2.0
//
// Five queued real-time signals of one number and two of another: all delivered, in order, with their values.
#include "victim.h"

static int values[8], numbers[8];
static volatile sig_atomic_t count;

static void OnSignal(int number, siginfo_t* info, void* context) {
  (void)context;
  if (count < 8) {
    numbers[count] = number;
    values[count] = info->si_code == SI_QUEUE && info->si_pid == getpid() ? info->si_value.sival_int : -1;
  }
  count++;
}

int main(int argc, char** argv) {
  VictimInit(argc, argv);
  const int low = SIGRTMIN + 1, high = SIGRTMIN + 5;
  struct sigaction action = {.sa_sigaction = OnSignal, .sa_flags = SA_SIGINFO};
  sigfillset(&action.sa_mask);
  SYS(sigaction(low, &action, NULL));
  SYS(sigaction(high, &action, NULL));
  sigset_t mask;
  sigemptyset(&mask);
  sigaddset(&mask, low);
  sigaddset(&mask, high);
  SYS(sigprocmask(SIG_BLOCK, &mask, NULL));
  for (int i = 0; i < 2; i++) SYS(sigqueue(getpid(), high, (union sigval){.sival_int = 900 + i}));
  for (int i = 0; i < 5; i++) SYS(sigqueue(getpid(), low, (union sigval){.sival_int = 100 + i}));
  VictimReady();
  CHECK_EQ(count, 0);
  // One at a time, lowest number first: waiting takes them in the order of delivery.
  for (int i = 0; i < 7; i++) {
    siginfo_t info;
    const int got = (int)SYS(sigtimedwait(&mask, &info, &(struct timespec){0, 0}));
    CHECK_EQ(got, i < 5 ? low : high);
    CHECK_EQ(info.si_value.sival_int, i < 5 ? 100 + i : 900 + i - 5);
    CHECK_EQ(info.si_code, SI_QUEUE);
    CHECK_EQ(info.si_pid, getpid());
    if (i == 3) {  // the handler gets the fifth
      SYS(sigprocmask(SIG_UNBLOCK, &(sigset_t){{1ul << (low - 1)}}, NULL));
      CHECK_EQ(count, 1);
      CHECK_EQ(numbers[0], low);
      CHECK_EQ(values[0], 104);
      i++;
    }
  }
  CHECK_EQ(count, 1);
  VictimPass();
}
