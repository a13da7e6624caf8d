// SPDX-License-Identifier: Apache-2.0
//
// The listener of a seccomp filter that asks another thread cannot be captured: refused, and it is asked on.
#include <sys/ioctl.h>

#include "seccomp.inc"

static void* Ask(void* unused) {
  (void)unused;
  return (void*)syscall(SYS_getppid);
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
  const int listener =
      (int)syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_NEW_LISTENER, &filter);
  if (listener < 0) VictimSkip("no seccomp listener: %s", strerror(errno));
  VictimReady();
  struct VictimThread asker;
  VictimSpawn(&asker, Ask, NULL);
  struct seccomp_notif question = {0};
  SYS(ioctl(listener, SECCOMP_IOCTL_NOTIF_RECV, &question));
  CHECK_EQ(question.data.nr, SYS_getppid);
  struct seccomp_notif_resp answer = {.id = question.id, .val = 4711};
  SYS(ioctl(listener, SECCOMP_IOCTL_NOTIF_SEND, &answer));
  CHECK_EQ((intptr_t)VictimJoin(&asker), 4711);
  VictimPass();
}
