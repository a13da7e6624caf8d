// SPDX-License-Identifier: Apache-2.0
//
// Signal-driven I/O: owner, signal number and O_ASYNC of a socket and of a pipe.
#include <sys/socket.h>

#include "victim.h"

static volatile sig_atomic_t descriptor = -1, number_seen;
static void OnInput(int number, siginfo_t* info, void* context) {
  (void)context;
  number_seen = number;
  descriptor = info->si_fd;
}

static void Arm(int fd, int number) {
  SYS(sigaction(number, &(struct sigaction){.sa_sigaction = OnInput, .sa_flags = SA_SIGINFO}, NULL));
  SYS(fcntl(fd, F_SETSIG, number));
  SYS(fcntl(fd, F_SETOWN, getpid()));
  SYS(fcntl(fd, F_SETFL, O_ASYNC | O_NONBLOCK));
}

static void CheckArmed(int fd, int other_end, int number) {
  CHECK_EQ(fcntl(fd, F_GETSIG), number);
  CHECK_EQ(fcntl(fd, F_GETOWN), getpid());
  CHECK_EQ(fcntl(fd, F_GETFL) & (O_ASYNC | O_NONBLOCK), O_ASYNC | O_NONBLOCK);
  descriptor = -1;
  SYS(write(other_end, "x", 1));
  while (descriptor == -1) VictimSleepMs(1);
  CHECK_EQ(descriptor, fd);
  CHECK_EQ(number_seen, number);
}

int main(int argc, char** argv) {
  VictimInit(argc, argv);
  int pair[2], ends[2];
  SYS(socketpair(AF_UNIX, SOCK_STREAM, 0, pair));
  SYS(pipe(ends));
  Arm(pair[0], SIGRTMIN + 6);
  Arm(ends[0], SIGRTMIN + 7);
  VictimReady();
  CheckArmed(pair[0], pair[1], SIGRTMIN + 6);
  CheckArmed(ends[0], ends[1], SIGRTMIN + 7);
  VictimPass();
}
