// SPDX-License-Identifier: Apache-2.0
//
// A process under another debugger cannot be captured: refused, and it is still traced by that one.
#include <sys/ptrace.h>
#include <sys/wait.h>

#include "victim.h"

// Lets every stop and signal through until the victim ends.
static void Trace(pid_t victim, int told) {
  int status;
  const bool seized = ptrace(PTRACE_SEIZE, victim, NULL, NULL) == 0;
  if (write(told, seized ? "y" : "n", 1) != 1 || !seized) _exit(1);
  while (waitpid(victim, &status, __WALL) == victim && WIFSTOPPED(status)) {
    const int number = WSTOPSIG(status);
    if (status >> 16 == PTRACE_EVENT_STOP && number != SIGTRAP) {
      ptrace(PTRACE_LISTEN, victim, NULL, NULL);
    } else {
      ptrace(PTRACE_CONT, victim, NULL, (void*)(status >> 16 ? 0L : (long)number));
    }
  }
  _exit(0);
}

static int Tracer(void) {
  char text[16];
  VictimProcField("/proc/self/status", "TracerPid", text, sizeof(text));
  return atoi(text);
}

int main(int argc, char** argv) {
  VictimInit(argc, argv);
  int told[2];
  char answer = 0;
  SYS(pipe(told));
  const pid_t victim = getpid(), child = (pid_t)SYS(fork());
  if (child == 0) {
    if (fork() == 0) Trace(victim, told[1]);  // a grandchild, so that the victim has no children
    _exit(0);
  }
  SYS(waitpid(child, NULL, 0));
  SYS(close(told[1]));
  CHECK_EQ(SYS(read(told[0], &answer, 1)), 1);
  SYS(close(told[0]));
  if (answer != 'y') VictimSkip("a grandchild may not trace here");
  const int tracer = Tracer();
  CHECK(tracer != 0, "not traced");
  VictimReady();
  CHECK_EQ(Tracer(), tracer);
  VictimPass();
}
