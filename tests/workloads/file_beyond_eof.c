// SPDX-License-Identifier: Apache-2.0
//
// A mapping that goes past the end of its file: zero to the end of the page, then SIGBUS.
#include <setjmp.h>

#include "victim.h"

static sigjmp_buf escape;
static void OnBus(int number) { siglongjmp(escape, number); }

int main(int argc, char** argv) {
  VictimInit(argc, argv);
  SYS(sigaction(SIGBUS, &(struct sigaction){.sa_handler = OnBus}, NULL));
  const int fd = VictimFile("short", kPage + 100, 46);
  volatile char* map = VictimMap(NULL, 4 * kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
  map[0] = 'c';
  SYS(close(fd));
  VictimReady();
  CHECK_EQ(map[0], 'c');
  VictimVerifyZero((char*)map + kPage + 100, kPage - 100);
  const int signal_number = sigsetjmp(escape, 1);
  if (signal_number == 0) {
    (void)map[2 * kPage];
    FAIL("reading past the end did not fault");
  }
  CHECK_EQ(signal_number, SIGBUS);
  VictimPass();
}
