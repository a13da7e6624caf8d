// SPDX-License-Identifier: Apache-2.0
//
// PROT_NONE pages around a buffer still raise SIGSEGV.
#include <setjmp.h>

#include "victim.h"

static sigjmp_buf escape;
static void* volatile fault_address;

static void OnFault(int number, siginfo_t* info, void* context) {
  (void)number, (void)context;
  fault_address = info->si_addr;
  siglongjmp(escape, 1);
}

static bool Faults(volatile char* at) {
  if (sigsetjmp(escape, 1) != 0) return fault_address == at;
  *at = 1;
  return false;
}

int main(int argc, char** argv) {
  VictimInit(argc, argv);
  struct sigaction action = {.sa_sigaction = OnFault, .sa_flags = SA_SIGINFO};
  SYS(sigaction(SIGSEGV, &action, NULL));
  char* base = VictimMap(NULL, 10 * kPage, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  SYS(mprotect(base + kPage, 8 * kPage, PROT_READ | PROT_WRITE));
  VictimFill(base + kPage, 8 * kPage, 12);
  VictimReady();
  VictimVerify(base + kPage, 8 * kPage, 12);
  CHECK(Faults(base + kPage - 1), "no fault below the buffer");
  CHECK(Faults(base + 9 * kPage), "no fault above the buffer");
  CHECK(!Faults(base + 9 * kPage - 1), "fault inside the buffer");
  VictimPass();
}
