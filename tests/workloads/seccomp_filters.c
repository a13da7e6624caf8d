// SPDX-License-Identifier: Apache-2.0
//
// Two seccomp filters on top of each other are still in force, and no more than that is forbidden.
#include "seccomp.inc"
#include "victim.h"

int main(int argc, char** argv) {
  VictimInit(argc, argv);
  VictimNeedRoot();
  Deny(SYS_getpriority, EPERM, 0);
  Deny(SYS_sched_getscheduler, EACCES, 0);
  CHECK_EQ(SeccompMode(), 2);
  VictimReady();
  CHECK_ERRNO(syscall(SYS_getpriority, 0, 0), EPERM);
  CHECK_ERRNO(syscall(SYS_sched_getscheduler, 0), EACCES);
  CHECK_EQ(SeccompMode(), 2);
  SYS(syscall(SYS_sched_getparam, 0, &(int){0}));
  Deny(SYS_sched_getparam, ENOTBLK, 0);  // one more can be added
  CHECK_ERRNO(syscall(SYS_sched_getparam, 0, &(int){0}), ENOTBLK);
  VictimPass();
}
