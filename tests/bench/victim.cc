// SPDX-License-Identifier: Apache-2.0
#include "victim.h"

#include <fcntl.h>
#include <pthread.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <string_view>

#include "moult/base/page.h"

namespace moult::bench {
namespace {

constexpr size_t kStack = 64 << 10;

int Fail(const char* what) {
  std::perror(what);
  return 1;
}

char* MapAnonymous(size_t size) {
  void* memory = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  return memory == MAP_FAILED ? nullptr : static_cast<char*>(memory);
}

// Content that no page shares with another, and that no compression or zero test makes cheap.
void FillPage(char* page, uint64_t seed) {
  auto* words = reinterpret_cast<uint64_t*>(page);
  uint64_t x = seed * 0x9e3779b97f4a7c15 + 1;
  for (size_t i = 0; i < kPage / sizeof(*words); ++i) {
    x ^= x << 13;
    x ^= x >> 7;
    x ^= x << 17;
    words[i] = x;
  }
}

bool MakePages(long pages) {
  if (pages == 0) return true;
  char* memory = MapAnonymous(static_cast<size_t>(pages) * kPage);
  if (memory == nullptr) return false;
  for (long i = 0; i < pages; ++i)
    FillPage(memory + static_cast<size_t>(i) * kPage, static_cast<uint64_t>(i));
  return true;
}

// Neighbours of different protection: the kernel cannot merge them.
bool MakeVmas(long vmas) {
  if (vmas == 0) return true;
  char* memory = MapAnonymous(static_cast<size_t>(vmas) * kPage);
  if (memory == nullptr) return false;
  for (long i = 0; i < vmas; ++i) {
    char* page = memory + static_cast<size_t>(i) * kPage;
    if (i % 2 == 0) {
      FillPage(page, static_cast<uint64_t>(i));
    } else if (mprotect(page, kPage, PROT_READ) < 0) {
      return false;
    }
  }
  return true;
}

void* Park(void*) {
  for (;;) pause();
}

// All stacks in one mapping, so that a thread costs no mapping and the two can be told apart.
bool MakeThreads(long threads) {
  if (threads <= 1) return true;
  char* stacks = MapAnonymous(static_cast<size_t>(threads - 1) * kStack);
  if (stacks == nullptr) return false;
  for (long i = 0; i + 1 < threads; ++i) {
    pthread_attr_t attributes;
    pthread_t thread;
    pthread_attr_init(&attributes);
    pthread_attr_setstack(&attributes, stacks + static_cast<size_t>(i) * kStack, kStack);
    if (pthread_create(&thread, &attributes, Park, nullptr) != 0) return false;
    pthread_attr_destroy(&attributes);
  }
  return true;
}

// A quarter event counters, a quarter files, half pipe ends.
bool MakeFds(long fds) {
  rlimit limit{};
  getrlimit(RLIMIT_NOFILE, &limit);
  if (limit.rlim_cur < limit.rlim_max) {
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
  }
  for (long have = 3; have < fds;) {
    if (fds - have >= 4) {
      int ends[2];
      if (pipe(ends) < 0) return false;
      have += 2;
    }
    if (eventfd(1, 0) < 0) return false;
    ++have;
    if (have < fds) {
      if (open("/proc/self/exe", O_RDONLY) < 0) return false;
      ++have;
    }
  }
  return true;
}

}  // namespace

int RunVictim(const VictimArguments& arguments) {
  // First out of the way of the numbers that are counted.
  const int ready = arguments.line ? STDOUT_FILENO : fcntl(kVictimReadyFd, F_DUPFD_CLOEXEC, 3);
  if (ready < 0) return Fail("victim: ready descriptor");
  if (!arguments.line) close(kVictimReadyFd);
  if (!MakePages(arguments.pages)) return Fail("victim: pages");
  if (!MakeVmas(arguments.vmas)) return Fail("victim: mappings");
  if (!MakeFds(arguments.fds)) return Fail("victim: descriptors");
  if (!MakeThreads(arguments.threads)) return Fail("victim: threads");
  const std::string_view word = arguments.line ? "ready\n" : "r";
  if (write(ready, word.data(), word.size()) != static_cast<ssize_t>(word.size()))
    return Fail("victim: say ready");
  if (!arguments.line) close(ready);
  Park(nullptr);
  return 0;
}

}  // namespace moult::bench
