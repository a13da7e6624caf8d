// SPDX-License-Identifier: Apache-2.0
//
// A POSIX timer on the CPU clock of another thread: refused, and it stays armed.
#include "victim.h"

static int ends[2];

static void* Thread(void* unused) {
  char byte;
  SYS(read(ends[0], &byte, 1));
  return unused;
}

int main(int argc, char** argv) {
  VictimInit(argc, argv);
  struct VictimThread thread;
  clockid_t clock;
  timer_t timer;
  struct sigevent event = {.sigev_notify = SIGEV_NONE};
  const struct itimerspec hour = {.it_value.tv_sec = 3600};
  struct itimerspec now;
  SYS(pipe(ends));
  VictimSpawn(&thread, Thread, NULL);
  PTHREAD(pthread_getcpuclockid(thread.handle, &clock));
  SYS(timer_create(clock, &event, &timer));
  SYS(timer_settime(timer, 0, &hour, NULL));
  VictimReady();
  SYS(timer_gettime(timer, &now));
  CHECK(now.it_value.tv_sec > 3500, "%ld s are left", now.it_value.tv_sec);
  SYS(write(ends[1], "x", 1));
  VictimJoin(&thread);
  VictimPass();
}
