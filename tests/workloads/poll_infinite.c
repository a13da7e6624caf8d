// SPDX-License-Identifier: Apache-2.0
//
// Threads in poll, ppoll, select and pselect without a timeout see the descriptor become readable afterwards.
#include <poll.h>
#include <sys/select.h>

#include "victim.h"

static int ends[2];

static void* Poll(void* unused) {
  struct pollfd item = {.fd = ends[0], .events = POLLIN};
  CHECK_EQ(SYS(syscall(SYS_poll, &item, 1, -1)), 1);
  CHECK_EQ(item.revents, POLLIN);
  return unused;
}

static void* Ppoll(void* unused) {
  struct pollfd item = {.fd = ends[0], .events = POLLIN};
  sigset_t mask;
  sigfillset(&mask);
  CHECK_EQ(SYS(ppoll(&item, 1, NULL, &mask)), 1);
  CHECK_EQ(item.revents, POLLIN);
  sigset_t now;
  PTHREAD(pthread_sigmask(SIG_BLOCK, NULL, &now));
  CHECK(!sigismember(&now, SIGUSR1), "ppoll's signal mask stayed");
  return unused;
}

static void* Select(void* unused) {
  fd_set set;
  FD_ZERO(&set);
  FD_SET(ends[0], &set);
  CHECK_EQ(SYS(syscall(SYS_select, ends[0] + 1, &set, NULL, NULL, NULL)), 1);
  CHECK(FD_ISSET(ends[0], &set), "not in the set");
  return unused;
}

static void* Pselect(void* unused) {
  fd_set set;
  FD_ZERO(&set);
  FD_SET(ends[0], &set);
  CHECK_EQ(SYS(pselect(ends[0] + 1, &set, NULL, NULL, NULL, NULL)), 1);
  return unused;
}

int main(int argc, char** argv) {
  VictimInit(argc, argv);
  static void* (*const kEntries[])(void*) = {Poll, Ppoll, Select, Pselect};
  static const long kCalls[] = {SYS_poll, SYS_ppoll, SYS_select, SYS_pselect6};
  struct VictimThread threads[4];
  SYS(pipe(ends));
  for (int i = 0; i < 4; i++) VictimSpawn(&threads[i], kEntries[i], NULL);
  for (int i = 0; i < 4; i++) VictimAwaitBlocked(threads[i].tid, kCalls[i]);
  VictimReady();
  SYS(write(ends[1], "x", 1));
  for (int i = 0; i < 4; i++) VictimJoin(&threads[i]);
  VictimPass();
}
