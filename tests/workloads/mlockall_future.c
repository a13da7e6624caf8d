// SPDX-License-Identifier: Apache-2.0
//
// mlockall(MCL_FUTURE): mappings made afterwards are locked; those made before stay as they were.
#include "victim.h"

int main(int argc, char** argv) {
  VictimInit(argc, argv);
  char* before = VictimAnon(8 * kPage);
  VictimFill(before, kPage, 32);
  SYS(mlockall(MCL_FUTURE));
  char* locked = VictimAnon(8 * kPage);
  CHECK(VictimVmFlag(locked, "lo"), "not locked");
  VictimReady();
  CHECK(!VictimVmFlag(before, "lo"), "old mapping became locked");
  CHECK(VictimVmFlag(locked, "lo"), "locked mapping is not any more");
  VictimVerify(before, kPage, 32);
  char* after = VictimAnon(8 * kPage);
  CHECK(VictimVmFlag(after, "lo"), "MCL_FUTURE is gone");
  for (int i = 0; i < 8; i++) CHECK(VictimPagemap(after + i * kPage) >> 63, "page %d is not in memory", i);
  VictimPass();
}
