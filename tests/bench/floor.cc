// SPDX-License-Identifier: Apache-2.0
#include "floor.h"

#include <fcntl.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <thread>
#include <vector>

#include "floor_builder.h"
#include "moult/base/page.h"

namespace moult::bench {
namespace {

constexpr size_t kHugePage = 2u << 20;
constexpr size_t kCacheSweep = 64u << 20;
constexpr size_t kMaxCopy = 1u << 30;
constexpr int kMadvPopulateWrite = 23;  // MADV_POPULATE_WRITE, Linux 5.14

using Clock = std::chrono::steady_clock;
double MicrosSince(Clock::time_point from) {
  return std::chrono::duration<double, std::micro>(Clock::now() - from).count();
}

[[noreturn]] void Die(const char* what) {
  std::perror(what);
  std::exit(1);
}

// Prefaulted: on huge pages as a copy's destination is, or on small ones as a process's memory is.
char* MapFilled(size_t size, bool huge) {
  void* memory = mmap(nullptr, size + kHugePage, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) Die("floor: mmap");
  const uint64_t base = (reinterpret_cast<uint64_t>(memory) + kHugePage - 1) & ~uint64_t{kHugePage - 1};
  char* at = static_cast<char*>(memory) + (base - reinterpret_cast<uint64_t>(memory));
  madvise(at, size, huge ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
  // Shared with a forked child it would be copied on the first write: a cost that no dump has.
  madvise(at, size, MADV_DONTFORK);
  if (madvise(at, size, kMadvPopulateWrite) < 0) Die("floor: populate");
  if (!huge) {
    for (size_t i = 0; i < size; i += kPage)
      std::memset(at + i, static_cast<int>(i / kPage % 251 + 1), kPage);
  }
  return at;
}

// A process that is dumped has been left alone for a while; what this one wrote a moment ago would lie in the
// cache.
void SweepCache() {
  static char* const memory = MapFilled(kCacheSweep, /*huge=*/true);
  for (size_t i = 0; i < kCacheSweep; i += 64) memory[i] = static_cast<char>(memory[i] + 1);
}

// Copies what a stopped child holds on small pages.
double CopyFromChild(size_t size, char* to) {
  void* shared = mmap(nullptr, kPage, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (shared == MAP_FAILED) Die("floor: mmap");
  auto* address = static_cast<char* volatile*>(shared);
  const pid_t pid = fork();
  if (pid < 0) Die("floor: fork");
  if (pid == 0) {
    *address = MapFilled(size, /*huge=*/false);
    raise(SIGSTOP);
    std::_Exit(0);
  }
  int status = 0;
  if (waitpid(pid, &status, WUNTRACED) != pid || !WIFSTOPPED(status)) Die("floor: wait for the child");
  SweepCache();
  const auto begin = Clock::now();
  for (size_t done = 0; done < size;) {
    iovec local{to + done, std::min(size - done, kMaxCopy)};
    iovec remote{*address + done, local.iov_len};
    const ssize_t n = process_vm_readv(pid, &local, 1, &remote, 1, 0);
    if (n <= 0) Die("floor: process_vm_readv");
    done += static_cast<size_t>(n);
  }
  const double micros = MicrosSince(begin);
  kill(pid, SIGKILL);
  waitpid(pid, nullptr, 0);
  munmap(shared, kPage);
  return micros;
}

double CopyWithin(size_t size, char* to) {
  const char* from = MapFilled(size, /*huge=*/false);
  SweepCache();
  const auto begin = Clock::now();
  std::memcpy(to, from, size);
  // The copy must not be left out for want of a reader.
  __asm__ volatile("" : : "r"(to) : "memory");
  return MicrosSince(begin);
}

double ForkAndExit() {
  const auto begin = Clock::now();
  const pid_t pid = fork();
  if (pid < 0) Die("floor: fork");
  if (pid == 0) _exit(0);
  waitpid(pid, nullptr, 0);
  return MicrosSince(begin);
}

// A child that has done `prepare`, and stays as it is until it is killed.
class Still {
 public:
  explicit Still(const std::function<void()>& prepare) {
    int ready[2];
    if (pipe(ready) < 0) Die("floor: pipe");
    pid_ = fork();
    if (pid_ < 0) Die("floor: fork");
    if (pid_ == 0) {
      prepare();
      if (write(ready[1], "r", 1) != 1) std::_Exit(1);
      for (;;) pause();
    }
    close(ready[1]);
    char byte;
    if (read(ready[0], &byte, 1) != 1) Die("floor: wait for the child");
    close(ready[0]);
  }
  ~Still() {
    kill(pid_, SIGKILL);
    waitpid(pid_, nullptr, 0);
  }
  Still(const Still&) = delete;
  Still& operator=(const Still&) = delete;
  pid_t pid() const { return pid_; }
  std::string Path(const char* name) const { return "/proc/" + std::to_string(pid_) + "/" + name; }

 private:
  pid_t pid_ = -1;
};

std::vector<pid_t> ListNumbers(const std::string& path) {
  std::vector<pid_t> numbers;
  for (const auto& entry : std::filesystem::directory_iterator(path)) numbers.push_back(std::stoi(entry.path().filename()));
  return numbers;
}

// Until all threads of a process stand still, their registers are known, and they run again.
double StopThreads(long threads) {
  const Still child([threads] {
    for (long i = 1; i < threads; ++i) {
      std::thread([] { for (;;) pause(); }).detach();
    }
  });
  const std::vector<pid_t> tids = ListNumbers(child.Path("task"));
  const auto begin = Clock::now();
  for (const pid_t tid : tids) {
    if (ptrace(PTRACE_SEIZE, tid, nullptr, nullptr) < 0 || ptrace(PTRACE_INTERRUPT, tid, nullptr, nullptr) < 0) Die("floor: ptrace");
  }
  user_regs_struct regs;
  for (const pid_t tid : tids) {
    if (waitpid(tid, nullptr, __WALL) != tid || ptrace(PTRACE_GETREGS, tid, nullptr, &regs) < 0) Die("floor: stop a thread");
  }
  for (const pid_t tid : tids) {
    if (ptrace(PTRACE_DETACH, tid, nullptr, nullptr) < 0) Die("floor: let a thread go");
  }
  return MicrosSince(begin);
}

// A duplicate of each descriptor, and what /proc says of it: the least that tells what it is.
double LookAtDescriptors(long fds) {
  const Still child([fds] {
    for (long i = 0; i < fds; ++i) {
      if (eventfd(0, 0) < 0) Die("floor: eventfd");
    }
  });
  const int pidfd = static_cast<int>(syscall(SYS_pidfd_open, child.pid(), 0));
  const int folder = open(child.Path("fdinfo").c_str(), O_RDONLY | O_DIRECTORY);
  const std::vector<pid_t> numbers = ListNumbers(child.Path("fd"));
  const auto begin = Clock::now();
  for (const int number : numbers) {
    char text[4096];
    const int fd = static_cast<int>(syscall(SYS_pidfd_getfd, pidfd, number, 0));
    const int info = openat(folder, std::to_string(number).c_str(), O_RDONLY);
    if (fd < 0 || info < 0 || read(info, text, sizeof(text)) <= 0) Die("floor: look at a descriptor");
    close(info);
    close(fd);
  }
  return MicrosSince(begin);
}

}  // namespace

int RunFloor(const FloorArguments& arguments) {
  nlohmann::ordered_json json;
  // First: the process is at its smallest.
  json["fork_exit_us"] = ForkAndExit();
  if (!arguments.template_dir.empty() || arguments.threads > 0) {
    const BuilderTimes times = BuildBare(arguments);
    json["mmaps_us"] = times.mmaps_us;
    json["fill_us"] = times.fill_us;
    json["fd_calls_us"] = times.fd_calls_us;
    json["clones_us"] = times.clones_us;
  }
  if (arguments.stop_threads > 0) json["stop_us"] = StopThreads(arguments.stop_threads);
  if (arguments.look_fds > 0) json["look_us"] = LookAtDescriptors(arguments.look_fds);
  if (arguments.copy_bytes > 0) {
    const size_t size = (arguments.copy_bytes + kPage - 1) & ~(kPage - 1);
    char* to = MapFilled(size, /*huge=*/true);
    json["copy_readv_us"] = CopyFromChild(size, to);
    json["copy_memcpy_us"] = CopyWithin(size, to);
  }
  std::printf("%s\n", json.dump().c_str());
  return 0;
}

}  // namespace moult::bench
