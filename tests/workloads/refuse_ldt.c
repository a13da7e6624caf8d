// SPDX-License-Identifier: Apache-2.0
//
// A local descriptor table (modify_ldt): refused, and kept.
#include <asm/ldt.h>
#include <sys/syscall.h>

#include "victim.h"

static long Entries(void) {
  char table[64];
  return syscall(SYS_modify_ldt, 0, table, sizeof(table));
}

int main(int argc, char** argv) {
  VictimInit(argc, argv);
  struct user_desc entry = {.entry_number = 0, .base_addr = 0, .limit = 0xfffff, .seg_32bit = 1, .limit_in_pages = 1, .useable = 1};
  if (syscall(SYS_modify_ldt, 1, &entry, sizeof(entry)) < 0) VictimSkip("modify_ldt: %s", strerror(errno));
  CHECK(Entries() > 0, "no table");
  VictimReady();
  CHECK(Entries() > 0, "the table is gone");
  VictimPass();
}
