// SPDX-License-Identifier: Apache-2.0
#include "victim.h"

#include <stdarg.h>

const char* victim_scratch = ".";

static bool victim_is_ready;

static void AppendResult(const char* line) {
  const int fd = open(VictimPath("result"), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
  // One write: up to twenty clones append to the same file at once.
  if (fd < 0 || write(fd, line, strlen(line)) < 0) {
    dprintf(2, "cannot write result (%s): %s", strerror(errno), line);
    _exit(1);
  }
  close(fd);
}

static void WriteReady(const char* text) {
  const int fd = (int)SYS(open(VictimPath("ready.tmp"), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666));
  SYS(write(fd, text, strlen(text)));
  SYS(close(fd));
  SYS(rename(VictimPath("ready.tmp"), VictimPath("ready")));
}

void VictimInit(int argc, char** argv) {
  if (argc < 2) {
    fprintf(stderr, "usage: %s SCRATCH_DIR\n", argv[0]);
    _exit(2);
  }
  victim_scratch = realpath(argv[1], NULL);
  if (victim_scratch == NULL) {
    fprintf(stderr, "%s: %s: %s\n", argv[0], argv[1], strerror(errno));
    _exit(2);
  }
}

void VictimEnterScratch(void) {
  SYS(chdir(victim_scratch));
  SYS(chmod(".", 0777));
  victim_scratch = ".";
}

void VictimNeedRoot(void) {
  if (geteuid() != 0) VictimSkip("must be run by root");
}

void VictimReady(void) {
  char text[32];
  snprintf(text, sizeof(text), "%d\n", (int)getpid());
  // Once it sleeps after that, nothing in its memory changes: each look is as the one before, down to errno, and the calls
  // that it makes are bound.
  static const struct timespec pause = {0, 2000000};
  const char* go = VictimPath("go");
  access(go, F_OK);
  clock_nanosleep(CLOCK_MONOTONIC, 0, &pause, NULL);
  victim_is_ready = true;
  WriteReady(text);
  while (access(go, F_OK) != 0) clock_nanosleep(CLOCK_MONOTONIC, 0, &pause, NULL);
}

bool VictimRestored(void) { return access(VictimPath("restored"), F_OK) == 0; }

void VictimPass(void) {
  AppendResult("pass\n");
  _exit(0);
}

void VictimFail(const char* file, int line, const char* format, ...) {
  char why[600], text[700];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(why, sizeof(why), format, arguments);
  va_end(arguments);
  for (char* c = why; *c != 0; c++) {
    if (*c == '\n') *c = ' ';
  }
  const char* base = strrchr(file, '/');
  snprintf(text, sizeof(text), "fail: %s:%d: %s%s\n", base != NULL ? base + 1 : file, line,
           victim_is_ready ? "" : "before ready: ", why);
  AppendResult(text);
  _exit(1);
}

void VictimSkip(const char* format, ...) {
  char why[200], text[220];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(why, sizeof(why), format, arguments);
  va_end(arguments);
  snprintf(text, sizeof(text), "skip: %s\n", why);
  AppendResult(text);
  if (!victim_is_ready) WriteReady(text);
  _exit(77);
}

const char* VictimPath(const char* name) {
  static _Thread_local char buffers[8][512];
  static _Thread_local unsigned next;
  char* path = buffers[next++ % 8];
  snprintf(path, sizeof(buffers[0]), "%s/%s", victim_scratch, name);
  return path;
}

void* VictimMap(void* address, size_t size, int prot, int flags, int fd, off_t offset) {
  void* at = mmap(address, size, prot, flags, fd, offset);
  if (at == MAP_FAILED) FAIL("mmap(%p, %zu, %d, %#x): %s", address, size, prot, flags, strerror(errno));
  return at;
}

static uint64_t Mix(uint64_t value) {
  value += 0x9e3779b97f4a7c15;
  value = (value ^ (value >> 30)) * 0xbf58476d1ce4e5b9;
  return value ^ (value >> 27);
}

void VictimFill(void* start, size_t size, uint64_t seed) {
  unsigned char* bytes = start;
  for (size_t i = 0; i < size; i += 8) {
    const uint64_t word = Mix(seed * 1000003 + i);
    memcpy(bytes + i, &word, size - i < 8 ? size - i : 8);
  }
}

void VictimVerify(const void* start, size_t size, uint64_t seed) {
  const unsigned char* bytes = start;
  for (size_t i = 0; i < size; i += 8) {
    const uint64_t word = Mix(seed * 1000003 + i);
    if (memcmp(bytes + i, &word, size - i < 8 ? size - i : 8) != 0) {
      uint64_t found = 0;
      memcpy(&found, bytes + i, size - i < 8 ? size - i : 8);
      FAIL("content at %p, byte %zu of %zu, is %#llx, not %#llx", start, i, size, (unsigned long long)found,
           (unsigned long long)word);
    }
  }
}

void VictimVerifyZero(const void* start, size_t size) {
  const unsigned char* bytes = start;
  for (size_t i = 0; i < size; i++) {
    if (bytes[i] != 0) FAIL("content at %p, byte %zu of %zu, is %#x, not 0", start, i, size, bytes[i]);
  }
}

int VictimFile(const char* name, size_t size, uint64_t seed) {
  const int fd = (int)SYS(open(VictimPath(name), O_RDWR | O_CREAT | O_TRUNC, 0644));
  SYS(ftruncate(fd, (off_t)size));
  if (size > 0) {
    void* content = VictimMap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    VictimFill(content, size, seed);
    CHECK_EQ(pwrite(fd, content, size, 0), size);
    SYS(munmap(content, size));
  }
  return fd;
}

static void* ThreadMain(void* argument) {
  struct VictimThread* self = argument;
  atomic_store(&self->tid, VictimGettid());
  return self->entry(self->argument);
}

void VictimSpawn(struct VictimThread* thread, void* (*entry)(void*), void* argument) {
  atomic_store(&thread->tid, 0);
  thread->entry = entry;
  thread->argument = argument;
  PTHREAD(pthread_create(&thread->handle, NULL, ThreadMain, thread));
  while (atomic_load(&thread->tid) == 0) VictimSleepMs(1);
}

void* VictimJoin(struct VictimThread* thread) {
  void* result = NULL;
  PTHREAD(pthread_join(thread->handle, &result));
  return result;
}

void VictimSleepMs(int milliseconds) {
  struct timespec left = {milliseconds / 1000, milliseconds % 1000 * 1000000L};
  while (clock_nanosleep(CLOCK_MONOTONIC, 0, &left, &left) == EINTR) {
  }
}
