// SPDX-License-Identifier: Apache-2.0
//
// 500 threads, each with a counter on its stack and one in thread-local storage, that wait in five different
// system calls. One listening unix socket asks them all for their state.
#define _GNU_SOURCE
#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

enum { kThreads = 500, kKinds = 5 };

// Round 0 is the start. A thread takes part in each round once, and says what it has then.
static _Atomic int g_round;
static _Atomic int g_answered;
static pthread_mutex_t g_mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t g_cond = PTHREAD_COND_INITIALIZER;
static _Atomic int g_futex;
// One for each thread: from a common one a quick thread would take a slow one's share.
static int g_pipes[kThreads][2];
static int g_eventfds[kThreads];

static __thread uint64_t t_value;
static __thread char t_name[32];

struct Answer {
  uint64_t stack, tls;
  pid_t tid, tid_at_start;
  int name_is_own, signal_mask_is_own;
};
static struct Answer g_answers[kThreads];

static void Die(const char* what) {
  perror(what);
  exit(1);
}

// The five ways to wait for the next round. All may return early.
static void WaitCond(int index, int round) {
  (void)index;
  pthread_mutex_lock(&g_mutex);
  while (g_round == round) pthread_cond_wait(&g_cond, &g_mutex);
  pthread_mutex_unlock(&g_mutex);
}

static void WaitFutex(int index, int round) {
  (void)index;
  // A long relative timeout: an interrupted call goes on through restart_syscall.
  struct timespec timeout = {3600, 0};
  syscall(SYS_futex, &g_futex, FUTEX_WAIT_PRIVATE, round, &timeout, NULL, 0);
}

static void WaitSleep(int index, int round) {
  (void)index, (void)round;
  struct timespec pause = {0, 20 * 1000 * 1000};
  nanosleep(&pause, NULL);
}

static void WaitPipe(int index, int round) {
  (void)round;
  char byte;
  if (read(g_pipes[index][0], &byte, 1) != 1 && errno != EINTR) Die("read pipe");
}

static void WaitEvent(int index, int round) {
  (void)round;
  uint64_t value;
  if (read(g_eventfds[index], &value, sizeof(value)) != sizeof(value) && errno != EINTR) Die("read eventfd");
}

static void (*const kWaits[kKinds])(int, int) = {WaitCond, WaitFutex, WaitSleep, WaitPipe, WaitEvent};

// Every thread blocks another real-time signal, so that a mask that ends up in the wrong thread shows.
static int OwnSignal(int index) { return SIGRTMIN + index % (SIGRTMAX - SIGRTMIN + 1); }

static int MaskIsOwn(int index) {
  sigset_t mask;
  pthread_sigmask(SIG_SETMASK, NULL, &mask);
  for (int s = SIGRTMIN; s <= SIGRTMAX; ++s) {
    if (sigismember(&mask, s) != (s == OwnSignal(index))) return 0;
  }
  return 1;
}

static void* Thread(void* argument) {
  const int index = (int)(intptr_t)argument;
  const pid_t tid_at_start = gettid();
  volatile uint64_t on_stack = (uint64_t)index;
  t_value = (uint64_t)index * 1000003;
  char name[16];
  snprintf(name, sizeof(name), "worker-%d", index);
  snprintf(t_name, sizeof(t_name), "%s", name);
  pthread_setname_np(pthread_self(), name);
  sigset_t mask;
  sigemptyset(&mask);
  sigaddset(&mask, OwnSignal(index));
  pthread_sigmask(SIG_SETMASK, &mask, NULL);

  for (int round = 0;;) {
    while (g_round == round) kWaits[index % kKinds](index, round);
    // Only one round is open at a time: the next one waits for all answers.
    round = g_round;
    on_stack = on_stack * 31 + (uint64_t)round;
    t_value += on_stack ^ (uint64_t)round;
    pthread_getname_np(pthread_self(), name, sizeof(name));
    g_answers[index] =
        (struct Answer){on_stack, t_value, gettid(), tid_at_start, !strcmp(name, t_name), MaskIsOwn(index)};
    ++g_answered;
    syscall(SYS_futex, &g_answered, FUTEX_WAKE_PRIVATE, INT_MAX, NULL, NULL, 0);
  }
  return NULL;
}

static void Wake(void) {
  pthread_mutex_lock(&g_mutex);
  g_answered = 0;
  ++g_round;
  pthread_cond_broadcast(&g_cond);
  pthread_mutex_unlock(&g_mutex);
  g_futex = g_round;
  syscall(SYS_futex, &g_futex, FUTEX_WAKE_PRIVATE, INT_MAX, NULL, NULL, 0);
  for (int i = 0; i < kThreads; ++i) {
    const uint64_t one = 1;
    if (kWaits[i % kKinds] == WaitPipe && write(g_pipes[i][1], "x", 1) != 1) Die("write pipe");
    if (kWaits[i % kKinds] == WaitEvent && write(g_eventfds[i], &one, sizeof(one)) != sizeof(one))
      Die("write eventfd");
  }
  for (int now; (now = g_answered) < kThreads;) {
    syscall(SYS_futex, &g_answered, FUTEX_WAIT_PRIVATE, now, NULL, NULL, 0);
  }
}

static void PrintAnswers(int fd) {
  uint64_t stack = 0, tls = 0;
  int tids = 0, names = 0, masks = 0;
  for (int i = 0; i < kThreads; ++i) {
    stack = stack * 1000003 + g_answers[i].stack;
    tls = tls * 1000003 + g_answers[i].tls;
    tids += g_answers[i].tid == g_answers[i].tid_at_start;
    names += g_answers[i].name_is_own;
    masks += g_answers[i].signal_mask_is_own;
  }
  dprintf(fd, "{\"round\":%d,\"stack\":\"%lu\",\"tls\":\"%lu\",\"tids\":%d,\"names\":%d,\"masks\":%d}\n",
          g_round, stack, tls, tids, names, masks);
}

static void Answer(int fd) {
  char line[32] = {0};
  if (read(fd, line, sizeof(line) - 1) <= 0)
    return;  // A request is one short write, so it comes in one piece.
  if (!strcmp(line, "round\n")) {
    Wake();
    PrintAnswers(fd);
  } else if (!strcmp(line, "snapshot\n")) {
    PrintAnswers(fd);
  } else if (!strcmp(line, "identity\n")) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    dprintf(fd, "{\"pid\":%d,\"clock\":%lld}\n", getpid(), now.tv_sec * 1000000000LL + now.tv_nsec);
  }
}

static int Listen(const char* path) {
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  snprintf(address.sun_path, sizeof(address.sun_path), "%s", path);
  const int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd < 0 || bind(fd, (struct sockaddr*)&address, sizeof(address)) || listen(fd, 16)) Die(path);
  return fd;
}

int main(int argc, char** argv) {
  if (argc != 3) {
    fprintf(stderr, "usage: threads500 SOCKET READY_FIFO\n");
    return 2;
  }
  signal(SIGPIPE, SIG_IGN);
  for (int i = 0; i < kThreads; ++i) {
    if (kWaits[i % kKinds] == WaitPipe && pipe(g_pipes[i])) Die("pipe");
    if (kWaits[i % kKinds] == WaitEvent && (g_eventfds[i] = eventfd(0, 0)) < 0) Die("eventfd");
  }
  pthread_attr_t small;
  pthread_attr_init(&small);
  pthread_attr_setstacksize(&small, 64 * 1024);
  for (intptr_t i = 0; i < kThreads; ++i) {
    pthread_t thread;
    if (pthread_create(&thread, &small, Thread, (void*)i)) Die("pthread_create");
  }
  const int listener = Listen(argv[1]);
  FILE* ready = fopen(argv[2], "w");
  if (!ready || fputs("ready\n", ready) < 0 || fclose(ready)) Die(argv[2]);
  for (;;) {
    const int fd = accept(listener, NULL, NULL);
    if (fd < 0) {
      if (errno == EINTR) continue;
      Die("accept");
    }
    Answer(fd);
    close(fd);
  }
}
