// SPDX-License-Identifier: Apache-2.0
//
// Names of anonymous mappings (PR_SET_VMA_ANON_NAME).
#include <sys/prctl.h>

#include "victim.h"

int main(int argc, char** argv) {
  VictimInit(argc, argv);
  char* memory = VictimAnon(4 * kPage);
  VictimFill(memory, 4 * kPage, 39);
  if (prctl(0x53564d41, 0, memory + kPage, kPage, "victim arena") != 0) {
    VictimSkip("PR_SET_VMA_ANON_NAME: %s", strerror(errno));
  }
  VictimReady();
  CHECK_STR(VictimFindVma(memory + kPage).name, "[anon:victim arena]");
  CHECK_STR(VictimFindVma(memory).name, "");
  VictimVerify(memory, 4 * kPage, 39);
  VictimPass();
}
