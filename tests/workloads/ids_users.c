// SPDX-License-Identifier: Apache-2.0
//
// Real, effective, saved and file-system user and group ids, and supplementary groups.
#include <grp.h>
#include <sys/fsuid.h>

#include "victim.h"

int main(int argc, char** argv) {
  VictimInit(argc, argv);
  VictimNeedRoot();
  VictimEnterScratch();
  static const gid_t kGroups[] = {7, 1007, 70000};
  SYS(setgroups(3, kGroups));
  SYS(setresgid(1001, 1002, 1003));
  SYS(setresuid(2001, 2002, 2003));
  setfsgid(1001);
  setfsuid(2003);
  VictimReady();
  uid_t real, effective, saved;
  gid_t groups[8];
  SYS(getresuid(&real, &effective, &saved));
  CHECK(real == 2001 && effective == 2002 && saved == 2003, "uids are %u, %u, %u", real, effective, saved);
  SYS(getresgid(&real, &effective, &saved));
  CHECK(real == 1001 && effective == 1002 && saved == 1003, "gids are %u, %u, %u", real, effective, saved);
  CHECK_EQ(setfsuid((uid_t)-1), 2003);
  CHECK_EQ(setfsgid((gid_t)-1), 1001);
  CHECK_EQ(getgroups(8, groups), 3);
  for (int i = 0; i < 3; i++) CHECK_EQ(groups[i], kGroups[i]);
  SYS(seteuid(2003));
  CHECK_ERRNO(seteuid(0), EPERM);
  CHECK_ERRNO(open("/etc/shadow", O_RDONLY), EACCES);
  VictimPass();
}
