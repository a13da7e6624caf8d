// SPDX-License-Identifier: Apache-2.0
//
// Capability sets: permitted, effective, inheritable, ambient, bounding, and securebits.
#include <linux/capability.h>
#include <linux/securebits.h>
#include <sys/prctl.h>

#include "victim.h"

static void Get(uint64_t sets[3]) {
  struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
  struct __user_cap_data_struct data[2];
  SYS(syscall(SYS_capget, &header, data));
  sets[0] = data[0].effective | (uint64_t)data[1].effective << 32;
  sets[1] = data[0].permitted | (uint64_t)data[1].permitted << 32;
  sets[2] = data[0].inheritable | (uint64_t)data[1].inheritable << 32;
}

int main(int argc, char** argv) {
  VictimInit(argc, argv);
  VictimNeedRoot();
  const uint32_t effective = 1u << CAP_KILL;
  const uint32_t permitted = effective | 1u << CAP_NET_BIND_SERVICE | 1u << CAP_CHOWN;
  const uint32_t inheritable = 1u << CAP_NET_BIND_SERVICE;
  const int bits = SECBIT_NOROOT | SECBIT_NOROOT_LOCKED | SECBIT_NO_SETUID_FIXUP;
  SYS(prctl(PR_CAPBSET_DROP, CAP_SYS_MODULE));
  SYS(prctl(PR_CAPBSET_DROP, CAP_SYSLOG));
  SYS(prctl(PR_SET_SECUREBITS, bits));
  struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
  struct __user_cap_data_struct data[2] = {{effective, permitted, inheritable}, {0, 0, 0}};
  SYS(syscall(SYS_capset, &header, data));
  SYS(prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, CAP_NET_BIND_SERVICE, 0, 0));
  uint64_t before[3], after[3];
  Get(before);
  CHECK_EQ(before[1], permitted);
  VictimReady();
  Get(after);
  CHECK_EQ(after[0], before[0]);
  CHECK_EQ(after[1], before[1]);
  CHECK_EQ(after[2], before[2]);
  CHECK_EQ(prctl(PR_CAPBSET_READ, CAP_SYS_MODULE), 0);
  CHECK_EQ(prctl(PR_CAPBSET_READ, CAP_SYSLOG), 0);
  CHECK_EQ(prctl(PR_CAPBSET_READ, CAP_CHOWN), 1);
  CHECK_EQ(prctl(PR_GET_SECUREBITS), bits);
  CHECK_EQ(prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_IS_SET, CAP_NET_BIND_SERVICE, 0, 0), 1);
  CHECK_EQ(prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_IS_SET, CAP_CHOWN, 0, 0), 0);
  CHECK_ERRNO(chroot("/"), EPERM);
  VictimPass();
}
