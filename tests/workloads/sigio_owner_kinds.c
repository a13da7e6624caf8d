// SPDX-License-Identifier: Apache-2.0
//
// Signal-driven I/O whose signal goes to one thread (F_OWNER_TID) or to the process group (F_OWNER_PGRP).
#include <sys/socket.h>

#include "victim.h"

static volatile sig_atomic_t receiver;
static void OnInput(int number) {
  (void)number;
  receiver = VictimGettid();
}

static void Arm(int fd, int type, pid_t owner) {
  const struct f_owner_ex wanted = {type, owner};
  SYS(fcntl(fd, F_SETSIG, SIGRTMIN + 5));
  SYS(fcntl(fd, F_SETOWN_EX, &wanted));
  SYS(fcntl(fd, F_SETFL, O_ASYNC | O_NONBLOCK));
}

static void CheckOwner(int fd, int type, pid_t owner) {
  struct f_owner_ex now;
  SYS(fcntl(fd, F_GETOWN_EX, &now));
  CHECK_EQ(now.type, type);
  CHECK_EQ(now.pid, owner);
  CHECK_EQ(fcntl(fd, F_GETFL) & O_ASYNC, O_ASYNC);
}

static int ends[2];
static void* Thread(void* unused) {
  char byte;
  while (read(ends[0], &byte, 1) < 0) CHECK_EQ(errno, EINTR);
  return unused;
}

int main(int argc, char** argv) {
  VictimInit(argc, argv);
  struct VictimThread thread;
  int by_thread[2], by_group[2];
  SYS(sigaction(SIGRTMIN + 5, &(struct sigaction){.sa_handler = OnInput, .sa_flags = SA_RESTART}, NULL));
  SYS(pipe(ends));
  SYS(socketpair(AF_UNIX, SOCK_STREAM, 0, by_thread));
  SYS(socketpair(AF_UNIX, SOCK_STREAM, 0, by_group));
  VictimSpawn(&thread, Thread, NULL);
  VictimAwaitBlocked(thread.tid, SYS_read);
  Arm(by_thread[0], F_OWNER_TID, thread.tid);
  Arm(by_group[0], F_OWNER_PGRP, getpgrp());
  VictimReady();
  CheckOwner(by_thread[0], F_OWNER_TID, thread.tid);
  CheckOwner(by_group[0], F_OWNER_PGRP, getpgrp());
  SYS(write(by_thread[1], "x", 1));
  while (receiver == 0) VictimSleepMs(1);
  CHECK_EQ(receiver, thread.tid);
  SYS(write(ends[1], "x", 1));
  VictimJoin(&thread);
  VictimPass();
}
