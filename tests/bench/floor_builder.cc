// SPDX-License-Identifier: Apache-2.0
#include "floor_builder.h"

#include <fcntl.h>
#include <linux/futex.h>
#include <linux/sched.h>
#include <sched.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "moult/base/page.h"

namespace moult::bench {
namespace {

constexpr size_t kStack = 4096;
constexpr int kFirstFd = 100;
constexpr size_t kMaxIov = 1024;
constexpr uint64_t kMaxRead = 1u << 30;

using Clock = std::chrono::steady_clock;
double Micros(Clock::time_point from, Clock::time_point to) {
  return std::chrono::duration<double, std::micro>(to - from).count();
}

[[noreturn]] void Die(const char* what) {
  std::perror(what);
  _exit(1);
}

char* MapAnonymous(size_t size, int flags) {
  void* memory = mmap(nullptr, size, PROT_READ | PROT_WRITE, flags | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) Die("floor: mmap");
  return static_cast<char*>(memory);
}

struct Parking {
  int started = 0;
  int wanted = 0;
  int park = 0;
};

// The new threads share the leader's thread-local storage: no libc call that could touch it.
long RawFutex(int* word, int operation, int value) {
  long result;
  register long timeout __asm__("r10") = 0;
  __asm__ volatile("syscall"
                   : "=a"(result)
                   : "a"(SYS_futex), "D"(word), "S"(operation | FUTEX_PRIVATE_FLAG), "d"(value), "r"(timeout)
                   : "rcx", "r11", "memory");
  return result;
}

[[noreturn]] void ParkThread(Parking* parking) {
  if (__atomic_add_fetch(&parking->started, 1, __ATOMIC_ACQ_REL) == parking->wanted)
    RawFutex(&parking->started, FUTEX_WAKE, 1);
  for (;;) RawFutex(&parking->park, FUTEX_WAIT, 0);
}

long CloneThread(clone_args* args, Parking* parking) {
  register long result __asm__("rax") = SYS_clone3;
  register Parking* kept __asm__("r12") = parking;
  __asm__ volatile(
      "syscall\n\t"
      "test %%rax, %%rax\n\t"
      "jnz 1f\n\t"
      "xor %%ebp, %%ebp\n\t"
      "mov %%r12, %%rdi\n\t"
      "call *%[park]\n\t"
      "1:"
      : "+r"(result)
      : "D"(args), "S"(sizeof(*args)), "r"(kept), [park] "b"(&ParkThread)
      : "rcx", "r11", "memory");
  return result;
}

// As many mappings as wanted, each large enough for its share of the content, a gap between any two.
std::vector<iovec> MapAll(const FloorArguments& arguments, char* place, size_t each) {
  std::vector<iovec> parts;
  parts.reserve(static_cast<size_t>(arguments.vmas));
  for (long i = 0; i < arguments.vmas; ++i) {
    // SAFETY: inside the reserve that holds all of them, and that nothing else uses.
    void* at = mmap(place + static_cast<size_t>(i) * (each + kPage), each, PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    if (at == MAP_FAILED) Die("floor: mmap");
    parts.push_back({at, each});
  }
  return parts;
}

void Fill(int fd, const std::vector<iovec>& mappings, uint64_t bytes) {
  uint64_t offset = 0;
  std::vector<iovec> batch;
  uint64_t batched = 0;
  const auto flush = [&] {
    if (batch.empty()) return;
    if (preadv(fd, batch.data(), static_cast<int>(batch.size()), static_cast<off_t>(offset)) !=
        static_cast<ssize_t>(batched))
      Die("floor: preadv");
    offset += batched;
    batched = 0;
    batch.clear();
  };
  for (const iovec& mapping : mappings) {
    for (size_t done = 0; done < mapping.iov_len && offset + batched < bytes;) {
      const uint64_t step =
          std::min({uint64_t{mapping.iov_len} - done, bytes - offset - batched, kMaxRead - batched});
      batch.push_back({static_cast<char*>(mapping.iov_base) + done, step});
      batched += step;
      done += step;
      if (batch.size() == kMaxIov || batched == kMaxRead) flush();
    }
  }
  flush();
}

void MakeFds(long fds) {
  rlimit limit{};
  getrlimit(RLIMIT_NOFILE, &limit);
  limit.rlim_cur = limit.rlim_max;
  setrlimit(RLIMIT_NOFILE, &limit);
  for (int i = 0; i < static_cast<int>(fds); ++i) {
    const int fd = eventfd(0, EFD_CLOEXEC);
    if (fd < 0 || dup3(fd, kFirstFd + i, O_CLOEXEC) < 0) Die("floor: descriptors");
    close(fd);
  }
}

void CloneAll(const FloorArguments& arguments) {
  if (arguments.threads <= 1) return;
  static Parking parking;
  parking.wanted = static_cast<int>(arguments.threads - 1);
  char* stacks = MapAnonymous(static_cast<size_t>(parking.wanted) * kStack, MAP_PRIVATE | MAP_POPULATE);
  for (int i = 0; i < parking.wanted; ++i) {
    clone_args args{};
    args.flags = CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM;
    args.stack = reinterpret_cast<uint64_t>(stacks) + static_cast<size_t>(i) * kStack;
    args.stack_size = kStack - 64;
    if (CloneThread(&args, &parking) < 0) Die("floor: clone3");
  }
  for (int seen; (seen = __atomic_load_n(&parking.started, __ATOMIC_ACQUIRE)) != parking.wanted;) {
    RawFutex(&parking.started, FUTEX_WAIT, seen);
  }
}

}  // namespace

BuilderTimes BuildBare(const FloorArguments& arguments) {
  auto* times = reinterpret_cast<BuilderTimes*>(MapAnonymous(sizeof(BuilderTimes), MAP_SHARED));
  const int fd = arguments.fill_bytes > 0 ? open(arguments.fill_file.c_str(), O_RDONLY | O_CLOEXEC) : -1;
  if (arguments.fill_bytes > 0 && fd < 0) Die("floor: open the page file");
  std::fflush(nullptr);
  const pid_t pid = fork();
  if (pid < 0) Die("floor: fork");
  if (pid == 0) {
    const size_t vmas = static_cast<size_t>(std::max(arguments.vmas, 1L));
    const size_t each = (arguments.fill_bytes / vmas / kPage + 1) * kPage;
    const size_t reserve = vmas * (each + kPage);
    char* place = MapAnonymous(reserve, MAP_PRIVATE | MAP_NORESERVE);
    if (munmap(place, reserve) < 0) Die("floor: munmap");
    const auto begin = Clock::now();
    const std::vector<iovec> mappings = MapAll(arguments, place, each);
    const auto mapped = Clock::now();
    if (fd >= 0) Fill(fd, mappings, arguments.fill_bytes);
    const auto filled = Clock::now();
    MakeFds(arguments.fds);
    const auto opened = Clock::now();
    CloneAll(arguments);
    *times = {Micros(begin, mapped), Micros(mapped, filled), Micros(filled, opened),
              Micros(opened, Clock::now())};
    _exit(0);
  }
  int status = 0;
  if (waitpid(pid, &status, 0) != pid || status != 0) {
    std::fprintf(stderr, "floor: the building child failed\n");
    std::exit(1);
  }
  return *times;
}

}  // namespace moult::bench
