// SPDX-License-Identifier: Apache-2.0
//
// Harness of the workloads ("victims"): the protocol with the launcher (README.md), checks that explain
// themselves, and looks into /proc that prove that a state was really built before "ready".
#ifndef MOULT_TESTS_WORKLOADS_VICTIM_H_
#define MOULT_TESTS_WORKLOADS_VICTIM_H_

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <time.h>
#include <unistd.h>

enum { kPage = 4096 };
/// A wait that is under way when it is captured has to be so when what came back is looked at, on a busy machine, too.
enum { kWaitSeconds = 5 };
#define WAIT_NS (kWaitSeconds * 1000000000LL)

/// SCRATCH_DIR. A victim that changes its root or cannot search the path any more sets another name for it.
extern const char* victim_scratch;

/// Takes SCRATCH_DIR from the command line; call first.
void VictimInit(int argc, char** argv);
/// Makes SCRATCH_DIR the working directory, open to every user, and names it ".": for victims that give up
/// privileges, or whose socket addresses must be short.
void VictimEnterScratch(void);
/// Skips unless the effective user is root.
void VictimNeedRoot(void);
/// The state is built: makes SCRATCH/ready, then waits for SCRATCH/go. May be frozen, killed and restored
/// here.
void VictimReady(void);
/// True when this run is a restored one (the runner makes SCRATCH/restored before it restores).
bool VictimRestored(void);

/// Each appends one line to SCRATCH/result and ends the whole process.
_Noreturn void VictimPass(void);
_Noreturn void VictimFail(const char* file, int line, const char* format, ...)
    __attribute__((format(printf, 3, 4)));
_Noreturn void VictimSkip(const char* format, ...) __attribute__((format(printf, 1, 2)));

#define FAIL(...) VictimFail(__FILE__, __LINE__, __VA_ARGS__)
#define CHECK(condition, ...)            \
  do {                                   \
    if (!(condition)) FAIL(__VA_ARGS__); \
  } while (0)
/// Integers only.
#define CHECK_EQ(actual, wanted)                                                                      \
  do {                                                                                                \
    const long long actual_ = (long long)(actual), wanted_ = (long long)(wanted);                     \
    if (actual_ != wanted_) FAIL("%s is %lld (%#llx), not %lld", #actual, actual_, actual_, wanted_); \
  } while (0)
#define CHECK_STR(actual, wanted)                                                                   \
  do {                                                                                              \
    const char *actual_ = (actual), *wanted_ = (wanted);                                            \
    if (strcmp(actual_, wanted_) != 0) FAIL("%s is \"%s\", not \"%s\"", #actual, actual_, wanted_); \
  } while (0)
/// A call that reports errors by -1 and errno; yields what it returned.
#define SYS(call)                                              \
  ({                                                           \
    const long result_ = (long)(call);                         \
    if (result_ == -1) FAIL("%s: %s", #call, strerror(errno)); \
    result_;                                                   \
  })
/// A call that must fail with this errno.
#define CHECK_ERRNO(call, wanted)                                                      \
  do {                                                                                 \
    errno = 0;                                                                         \
    const long result_ = (long)(call);                                                 \
    if (result_ != -1 || errno != (wanted))                                            \
      FAIL("%s gave %ld and errno %d, not errno %d", #call, result_, errno, (wanted)); \
  } while (0)
/// A call that returns an error number (pthread_*, posix_*).
#define PTHREAD(call)                                         \
  do {                                                        \
    const int error_ = (call);                                \
    if (error_ != 0) FAIL("%s: %s", #call, strerror(error_)); \
  } while (0)

/// SCRATCH/name, in one of eight buffers that are used in turn.
const char* VictimPath(const char* name);

/// mmap(2) that cannot fail.
void* VictimMap(void* address, size_t size, int prot, int flags, int fd, off_t offset);
static inline void* VictimAnon(size_t size) {
  return VictimMap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
}
/// Anonymous memory between two PROT_NONE pages: the kernel cannot merge it with a neighbour.
static inline void* VictimIsland(size_t size) {
  char* room = VictimMap(NULL, size + 2 * kPage, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mprotect(room + kPage, size, PROT_READ | PROT_WRITE) != 0) FAIL("mprotect: %s", strerror(errno));
  return room + kPage;
}
/// Fills with, and checks for, bytes that depend on the offset and the seed.
void VictimFill(void* start, size_t size, uint64_t seed);
void VictimVerify(const void* start, size_t size, uint64_t seed);
void VictimVerifyZero(const void* start, size_t size);
/// A file SCRATCH/name of that size with VictimFill content; returns it open for reading and writing.
int VictimFile(const char* name, size_t size, uint64_t seed);

/// One line of /proc/self/maps.
struct VictimVma {
  uintptr_t start, end;
  char perms[5];
  uint64_t offset;
  char name[256];
};
/// The mapping that holds the address; fails when there is none.
struct VictimVma VictimFindVma(const void* address);
/// Whether VmFlags of the mapping in smaps has the two-letter flag.
bool VictimVmFlag(const void* address, const char* flag);
/// Number of kB that smaps gives for that key ("AnonHugePages", "Locked", ...) of the mapping.
long VictimSmapsKb(const void* address, const char* key);
/// Value of the first "Key:\tvalue" line, without leading blanks.
void VictimProcField(const char* path, const char* key, char* value, size_t size);
/// Content of a small file of /proc or SCRATCH; returns its length. The value is 0-terminated.
size_t VictimSlurp(const char* path, void* value, size_t size);
/// Raw entry of /proc/self/pagemap; bit 63: present, bit 62: swapped.
uint64_t VictimPagemap(const void* address);

struct VictimThread {
  pthread_t handle;
  _Atomic pid_t tid;
  void* (*entry)(void*);
  void* argument;
};
/// Starts a thread and returns when its tid is known.
void VictimSpawn(struct VictimThread* thread, void* (*entry)(void*), void* argument);
void* VictimJoin(struct VictimThread* thread);
/// Waits until the thread sleeps inside the system call; fails after 10 s.
void VictimAwaitBlocked(pid_t tid, long syscall_number);

static inline int64_t VictimNow(clockid_t clock) {
  struct timespec now;
  if (clock_gettime(clock, &now) != 0) FAIL("clock_gettime(%d): %s", clock, strerror(errno));
  return now.tv_sec * 1000000000LL + now.tv_nsec;
}
static inline pid_t VictimGettid(void) { return (pid_t)syscall(SYS_gettid); }
/// Sleeps at least that long, whatever signals come.
void VictimSleepMs(int milliseconds);

#endif  // MOULT_TESTS_WORKLOADS_VICTIM_H_
