// SPDX-License-Identifier: Apache-2.0
//
// All dispositions: handler, flags, mask and restorer of signals 1 to 64.
#include "victim.h"

struct KernelSigaction {
  void (*handler)(int);
  unsigned long flags;
  void (*restorer)(void);
  unsigned long mask;
};

static void OnSignal(int number) { (void)number; }

static void Snapshot(struct KernelSigaction all[65]) {
  for (int i = 1; i <= 64; i++) SYS(syscall(SYS_rt_sigaction, i, NULL, &all[i], 8));
}

int main(int argc, char** argv) {
  VictimInit(argc, argv);
  static struct KernelSigaction before[65], after[65];
  static const int kFlags[] = {SA_RESTART, SA_SIGINFO, SA_NODEFER, (int)SA_RESETHAND, SA_ONSTACK, 0};
  for (int i = 1; i <= 64; i++) {
    if (i == SIGKILL || i == SIGSTOP || i == 32 || i == 33 || i % 5 == 0) continue;
    struct sigaction action = {.sa_flags = kFlags[i % 6] | kFlags[i % 4]};
    action.sa_handler = i % 7 == 0 ? SIG_IGN : OnSignal;
    sigaddset(&action.sa_mask, i % 31 + 1);
    SYS(sigaction(i, &action, NULL));
  }
  Snapshot(before);
  VictimReady();
  Snapshot(after);
  for (int i = 1; i <= 64; i++) {
    CHECK(before[i].handler == after[i].handler, "handler of %d changed", i);
    CHECK(before[i].flags == after[i].flags, "flags of %d: %#lx, was %#lx", i, after[i].flags,
          before[i].flags);
    CHECK(before[i].restorer == after[i].restorer, "restorer of %d changed", i);
    CHECK(before[i].mask == after[i].mask, "mask of %d: %#lx, was %#lx", i, after[i].mask, before[i].mask);
  }
  VictimPass();
}
