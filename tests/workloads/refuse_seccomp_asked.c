// SPDX-License-Identifier: Apache-2.0
//
// A seccomp filter that asks another process: nobody answers after a restore, so it is to be refused.
#include <poll.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/wait.h>

#include "seccomp.inc"

// Starts a process that is no child of this one and answers questions while this one is there.
static void Elsewhere(int listener) {
  const pid_t asker = getpid();
  const pid_t middle = (pid_t)SYS(fork());
  if (middle == 0) {
    if (fork() == 0) {
      setsid();
      for (;;) {
        struct pollfd waiting = {listener, POLLIN, 0};
        poll(&waiting, 1, 100);
        if (kill(asker, 0) < 0) _exit(0);
        if (waiting.revents == 0) continue;
        struct seccomp_notif question = {0};
        if (ioctl(listener, SECCOMP_IOCTL_NOTIF_RECV, &question) != 0) _exit(0);
        struct seccomp_notif_resp answer = {.id = question.id, .val = 4711};
        ioctl(listener, SECCOMP_IOCTL_NOTIF_SEND, &answer);
      }
    }
    _exit(0);
  }
  SYS(waitpid(middle, NULL, 0));
}

int main(int argc, char** argv) {
  VictimInit(argc, argv);
  VictimNeedRoot();
  struct sock_filter program[] = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_getppid, 0, 1),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_USER_NOTIF),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
  };
  const struct sock_fprog filter = {4, program};
  const int listener = (int)syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_NEW_LISTENER, &filter);
  if (listener < 0) VictimSkip("no seccomp listener: %s", strerror(errno));
  Elsewhere(listener);
  SYS(close(listener));
  CHECK_EQ(syscall(SYS_getppid), 4711);
  VictimReady();
  CHECK_EQ(syscall(SYS_getppid), 4711);
  VictimPass();
}
