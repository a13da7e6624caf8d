// SPDX-License-Identifier: Apache-2.0
//
// A read-only page with content: the handler of the write fault opens it, as collectors do.
#include "victim.h"

static char* page;
static volatile sig_atomic_t faults;

static void OnFault(int number, siginfo_t* info, void* context) {
  (void)number, (void)context;
  if (info->si_addr != page + 5 || info->si_code != SEGV_ACCERR) _exit(3);
  faults++;
  mprotect(page, kPage, PROT_READ | PROT_WRITE);
}

int main(int argc, char** argv) {
  VictimInit(argc, argv);
  SYS(sigaction(SIGSEGV, &(struct sigaction){.sa_sigaction = OnFault, .sa_flags = SA_SIGINFO}, NULL));
  page = VictimAnon(kPage);
  VictimFill(page, kPage, 45);
  SYS(mprotect(page, kPage, PROT_READ));
  VictimReady();
  VictimVerify(page, kPage, 45);
  CHECK_EQ(faults, 0);
  const char old = page[5];
  ((volatile char*)page)[5] = 'b';
  CHECK_EQ(faults, 1);
  CHECK_EQ(page[5], 'b');
  page[5] = old;
  VictimVerify(page, kPage, 45);
  VictimPass();
}
