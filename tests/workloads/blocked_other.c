// SPDX-License-Identifier: Apache-2.0
//
// Threads blocked in system calls that few programs use: each gets what comes afterwards. EINTR is allowed in
// epoll_pwait2: Linux gives it after SIGCONT too.
#include <linux/futex.h>
#include <sys/epoll.h>
#include <sys/inotify.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/timerfd.h>

#include "victim.h"

#ifndef SYS_futex_waitv
#define SYS_futex_waitv 449  // Linux 5.16
#endif

enum { kMessage = 3000 };

static _Atomic uint32_t words[2];
static int poller, event_pipe[2], full[2], datagrams[2], watcher, timer, signals;

static void* FutexWaitv(void* unused) {
  struct futex_waitv waiters[2] = {{.uaddr = (uintptr_t)&words[0], .flags = FUTEX_32 | FUTEX_PRIVATE_FLAG},
                                   {.uaddr = (uintptr_t)&words[1], .flags = FUTEX_32 | FUTEX_PRIVATE_FLAG}};
  CHECK_EQ(SYS(syscall(SYS_futex_waitv, waiters, 2, 0, NULL, CLOCK_MONOTONIC)), 1);
  return unused;
}

static void* EpollPwait2(void* unused) {
  sigset_t outside, inside, now;
  sigemptyset(&inside);
  sigaddset(&inside, SIGUSR2);
  sigaddset(&inside, SIGRTMIN + 3);  // the signalfd's: it may come before this thread is back from its wait
  SYS(pthread_sigmask(SIG_SETMASK, NULL, &outside));
  struct epoll_event event;
  int count;
  while ((count = (int)syscall(SYS_epoll_pwait2, poller, &event, 1, NULL, &inside, 8)) < 0)
    CHECK_EQ(errno, EINTR);
  CHECK_EQ(count, 1);
  CHECK_EQ(event.data.u64, 0xabcdef0123456789);
  SYS(pthread_sigmask(SIG_SETMASK, NULL, &now));
  CHECK(memcmp(&now, &outside, 8) == 0, "the mask of the wait is still there");
  return unused;
}

static void* Sendmsg(void* unused) {
  static char bytes[kMessage];
  VictimFill(bytes, kMessage, 5);
  struct iovec part = {bytes, kMessage};
  const struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
  CHECK_EQ(SYS(syscall(SYS_sendmsg, full[0], &message, 0)), kMessage);
  return unused;
}

static void* Recvmmsg(void* unused) {
  char bytes[2][8] = {{0}};
  struct iovec parts[2] = {{bytes[0], 8}, {bytes[1], 8}};
  struct mmsghdr messages[2] = {{.msg_hdr = {.msg_iov = &parts[0], .msg_iovlen = 1}},
                                {.msg_hdr = {.msg_iov = &parts[1], .msg_iovlen = 1}}};
  CHECK_EQ(SYS(syscall(SYS_recvmmsg, datagrams[0], messages, 2, MSG_WAITFORONE, NULL)), 1);
  CHECK_EQ(messages[0].msg_len, 4);
  CHECK_STR(bytes[0], "data");
  return unused;
}

// Copies that run at once see each other's files come too.
static void* ReadInotify(void* unused) {
  union {
    struct inotify_event event;
    char bytes[sizeof(struct inotify_event) + 256];
  } buffer;
  CHECK(SYS(read(watcher, &buffer, sizeof(buffer))) > 0, "no event");
  CHECK_EQ(buffer.event.mask, IN_CREATE);
  CHECK(strncmp(buffer.event.name, "new-", 4) == 0, "%s was made", buffer.event.name);
  return unused;
}

static void* ReadTimer(void* unused) {
  uint64_t ticks = 0;
  CHECK_EQ(SYS(read(timer, &ticks, sizeof(ticks))), sizeof(ticks));
  CHECK_EQ(ticks, 1);
  return unused;
}

static void* ReadSignals(void* unused) {
  struct signalfd_siginfo info;
  CHECK_EQ(SYS(read(signals, &info, sizeof(info))), sizeof(info));
  CHECK_EQ(info.ssi_signo, SIGRTMIN + 3);
  CHECK_EQ(info.ssi_int, 55);
  return unused;
}

static const struct {
  void* (*entry)(void*);
  long number;
} kWaits[] = {{FutexWaitv, SYS_futex_waitv}, {EpollPwait2, SYS_epoll_pwait2}, {Sendmsg, SYS_sendmsg},
              {Recvmmsg, SYS_recvmmsg},      {ReadInotify, SYS_read},         {ReadTimer, SYS_read},
              {ReadSignals, SYS_read}};
enum { kThreads = sizeof(kWaits) / sizeof(kWaits[0]) };

// Messages keep their bounds, so that what was full is as full afterwards. Returns how many there are.
static int FillSocket(void) {
  char bytes[kMessage];
  VictimFill(bytes, kMessage, 6);
  int count = 0;
  while (send(full[0], bytes, kMessage, MSG_DONTWAIT) == kMessage) count++;
  CHECK_EQ(errno, EAGAIN);
  return count;
}

static void CheckSocket(int count) {
  char bytes[kMessage];
  for (int i = 0; i <= count; i++) {
    CHECK_EQ(SYS(recv(full[1], bytes, kMessage, 0)), kMessage);
    VictimVerify(bytes, kMessage, i < count ? 6 : 5);
  }
}

static void WakeOne(uint32_t index) {
  words[index] = 1;
  CHECK_EQ(SYS(syscall(SYS_futex, &words[index], FUTEX_WAKE | FUTEX_PRIVATE_FLAG, 1)), 1);
}

int main(int argc, char** argv) {
  VictimInit(argc, argv);
  if (syscall(SYS_futex_waitv, NULL, 0, 0, NULL, 0) < 0 && errno == ENOSYS) VictimSkip("no futex_waitv");
  struct VictimThread threads[kThreads];
  sigset_t blocked;
  sigemptyset(&blocked);
  sigaddset(&blocked, SIGRTMIN + 3);
  SYS(sigprocmask(SIG_BLOCK, &blocked, NULL));
  signals = (int)SYS(signalfd(-1, &blocked, SFD_CLOEXEC));
  SYS(pipe(event_pipe));
  poller = (int)SYS(epoll_create1(EPOLL_CLOEXEC));
  struct epoll_event event = {.events = EPOLLIN, .data.u64 = 0xabcdef0123456789};
  SYS(epoll_ctl(poller, EPOLL_CTL_ADD, event_pipe[0], &event));
  SYS(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, full));
  SYS(socketpair(AF_UNIX, SOCK_DGRAM, 0, datagrams));
  const int queued = FillSocket();
  SYS(mkdir(VictimPath("watched"), 0755));
  watcher = (int)SYS(inotify_init1(IN_CLOEXEC));
  SYS(inotify_add_watch(watcher, VictimPath("watched"), IN_CREATE));
  timer = (int)SYS(timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC));
  SYS(timerfd_settime(timer, 0, &(struct itimerspec){.it_value.tv_sec = 3600}, NULL));
  for (int i = 0; i < kThreads; i++) VictimSpawn(&threads[i], kWaits[i].entry, NULL);
  for (int i = 0; i < kThreads; i++) VictimAwaitBlocked(threads[i].tid, kWaits[i].number);
  VictimReady();
  VictimAwaitBlocked(threads[0].tid, SYS_futex_waitv);  // it must be there to be woken
  WakeOne(1);
  SYS(write(event_pipe[1], "x", 1));
  CheckSocket(queued);
  SYS(send(datagrams[1], "data", 4, 0));
  char name[600];
  snprintf(name, sizeof(name), "%s/new-XXXXXX", VictimPath("watched"));
  SYS(close((int)SYS(mkstemp(name))));
  SYS(timerfd_settime(timer, 0, &(struct itimerspec){.it_value.tv_nsec = 1000000}, NULL));
  SYS(sigqueue(getpid(), SIGRTMIN + 3, (union sigval){.sival_int = 55}));
  for (int i = 0; i < kThreads; i++) VictimJoin(&threads[i]);
  VictimPass();
}
