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
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <optional>

#include "floor_memory.h"

namespace moult::bench {
namespace {

constexpr size_t kStack = 4096;
constexpr int kFirstFd = 100;

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
  std::optional<BareMemory> memory;
  if (!arguments.template_dir.empty()) memory.emplace(arguments.template_dir);
  std::fflush(nullptr);
  const pid_t pid = fork();
  if (pid < 0) Die("floor: fork");
  if (pid == 0) {
    const auto begin = Clock::now();
    if (memory) memory->Map();
    const auto mapped = Clock::now();
    if (memory) memory->Fill();
    const auto filled = Clock::now();
    if (memory) memory->Protect();
    const auto ready = Clock::now();
    MakeFds(arguments.fds);
    const auto opened = Clock::now();
    CloneAll(arguments);
    *times = {Micros(begin, mapped) + Micros(filled, ready), Micros(mapped, filled), Micros(ready, opened),
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
