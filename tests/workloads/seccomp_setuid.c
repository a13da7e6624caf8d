// SPDX-License-Identifier: Apache-2.0
//
// Another user with a seccomp filter, who may be looked at all the same (PR_SET_DUMPABLE).
#include <grp.h>
#include <sys/prctl.h>

#include "seccomp.inc"
#include "victim.h"

int main(int argc, char** argv) {
  VictimInit(argc, argv);
  VictimNeedRoot();
  Deny(SYS_getpriority, EPERM, 0);
  SYS(chmod(".", 0777));
  SYS(setgroups(0, NULL));
  SYS(setgid(1001));
  SYS(setuid(1001));
  SYS(prctl(PR_SET_DUMPABLE, 1, 0, 0, 0));
  VictimReady();
  CHECK_EQ(SYS(prctl(PR_GET_DUMPABLE, 0, 0, 0, 0)), 1);
  CHECK_EQ(getuid(), 1001);
  CHECK_ERRNO(syscall(SYS_getpriority, 0, 0), EPERM);
  CHECK_EQ(SeccompMode(), 2);
  struct stat st;
  SYS(stat("/proc/self", &st));
  CHECK_EQ(st.st_uid, 1001);
  VictimPass();
}
