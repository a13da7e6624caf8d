// SPDX-License-Identifier: Apache-2.0
//
// FUTEX_WAIT on a word in shared memory is found by a wake through another mapping of it.
#include <linux/futex.h>

#include "victim.h"

static uint32_t* waiting_view;

static void* Waiter(void* unused) {
  while (*(volatile uint32_t*)waiting_view == 0) {
    if (syscall(SYS_futex, waiting_view, FUTEX_WAIT, 0, NULL, NULL, 0) != 0) CHECK_EQ(errno, EAGAIN);
  }
  return unused;
}

int main(int argc, char** argv) {
  VictimInit(argc, argv);
  struct VictimThread waiter;
  waiting_view = VictimMap(NULL, kPage, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  uint32_t* other_view = mremap(waiting_view, 0, kPage, MREMAP_MAYMOVE);
  CHECK(other_view != MAP_FAILED, "mremap: %s", strerror(errno));
  VictimSpawn(&waiter, Waiter, NULL);
  VictimAwaitBlocked(waiter.tid, SYS_futex);
  VictimReady();
  *other_view = 1;
  CHECK(SYS(syscall(SYS_futex, other_view, FUTEX_WAKE, 1, NULL, NULL, 0)) <= 1, "woke too many");
  VictimJoin(&waiter);
  VictimPass();
}
