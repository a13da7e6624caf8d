// SPDX-License-Identifier: Apache-2.0
#include "image/orphan.h"

#include "image/sanitizers.h"

#ifdef MOULT_ADDRESS_SANITIZER
#include <sanitizer/common_interface_defs.h>
#endif
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "proc/fdinfo.h"
#include "proc/read.h"

namespace moult::engine {
namespace {

constexpr size_t kStack = 256 << 10;
constexpr size_t kGuard = 4096;

class Stack {
 public:
  Stack() : memory_(mmap(nullptr, kGuard + kStack, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0)) {
    if (memory_ != MAP_FAILED) mprotect(memory_, kGuard, PROT_NONE);
  }
  ~Stack() {
    if (memory_ != MAP_FAILED) munmap(memory_, kGuard + kStack);
  }
  Stack(const Stack&) = delete;
  Stack& operator=(const Stack&) = delete;
  std::byte* bottom() const { return memory_ == MAP_FAILED ? nullptr : static_cast<std::byte*>(memory_) + kGuard; }

 private:
  void* const memory_;
};

// A process that shares this one's memory, which waits until it has ended, and runs on `stack`; it calls `work`, which does
// not return. Its pid, or a negative errno. Half the price of a fork, which would copy the page tables for a process that
// lives for one system call.
long CallInMemory(clone_args args, const Stack& stack, void (*work)(void*), void* argument) {
  if (stack.bottom() == nullptr) return -ENOMEM;
  args.flags |= CLONE_VM | CLONE_VFORK;
  args.stack = reinterpret_cast<uint64_t>(stack.bottom());
  args.stack_size = kStack;
  long result = SYS_clone3;
  register void* pinned __asm__("r12") = argument;
  // SAFETY: the child is on a stack of its own and never comes back from `work`. Registers that a call does not change hold
  // what it calls and with what.
  __asm__ volatile(
      "syscall\n\t"
      "test %%rax, %%rax\n\t"
      "jnz 1f\n\t"
      "mov %%r12, %%rdi\n\t"
      "xor %%ebp, %%ebp\n\t"
      "call *%%rbx\n\t"
      "hlt\n"
      "1:"
      : "+a"(result)
      : "D"(&args), "S"(sizeof(args)), "b"(work), "r"(pinned)
      : "rcx", "r11", "memory");
  return result;
}

struct Middle {
  clone_args& args;
  absl::FunctionRef<void()> child;
  const Stack& stack;
  long result;  // pid as the middle process sees it, or a negative errno
};

void RunMiddle(void* argument) {
  auto* middle = static_cast<Middle*>(argument);
  const long pid = syscall(SYS_clone3, &middle->args, sizeof(middle->args));
  if (pid == 0) {
#ifdef MOULT_ADDRESS_SANITIZER
    void* fake = nullptr;
    __sanitizer_start_switch_fiber(&fake, middle->stack.bottom(), kStack);
    __sanitizer_finish_switch_fiber(fake, nullptr, nullptr);
#endif
    middle->child();
    _exit(1);
  }
  middle->result = pid < 0 ? -errno : pid;
  // Not _exit: a sanitizer would look at a stack that it does not know.
  for (;;) syscall(SYS_exit_group, 0);
}

// `inside`: the process between the two is in the cgroup of the new one, too.
int Clone(clone_args args, pid_t middle_pid, bool inside, absl::FunctionRef<void()> child, Orphan* orphan) {
  int pidfd = -1;
  args.flags |= CLONE_PIDFD;
  args.pidfd = reinterpret_cast<uint64_t>(&pidfd);
  const Stack stack;
  Middle middle{args, child, stack, -ESRCH};  // until the middle process says otherwise
  clone_args middle_args{};
  middle_args.exit_signal = SIGCHLD;
  middle_args.flags = CLONE_FILES;  // so that the pidfd it gets is ours
  if (inside) {
    middle_args.flags |= CLONE_INTO_CGROUP;
    middle_args.cgroup = std::exchange(args.cgroup, 0);
    args.flags &= ~uint64_t{CLONE_INTO_CGROUP};
  }
  if (middle_pid != 0) {
    middle_args.set_tid = reinterpret_cast<uint64_t>(&middle_pid);
    middle_args.set_tid_size = 1;
  }
  const long made = CallInMemory(middle_args, stack, RunMiddle, &middle);
  if (made < 0) return static_cast<int>(-made);
  siginfo_t info{};
  while (waitid(P_PID, static_cast<id_t>(made), &info, WEXITED) < 0 && errno == EINTR) {
  }
  orphan->pidfd.Reset(pidfd);
  if (middle.result < 0) return static_cast<int>(-middle.result);
  orphan->inner_pid = static_cast<pid_t>(middle.result);
  const auto text = proc::ReadFile(absl::StrCat("/proc/self/fdinfo/", pidfd));
  const auto info_of_pidfd = text.ok() ? proc::ParseFdInfo(*text) : text.status();
  orphan->pid = info_of_pidfd.ok() ? info_of_pidfd->pidfd_pid.value_or(-1) : -1;
  return orphan->pid > 0 ? 0 : ESRCH;  // it has ended, and its new parent has waited for it
}

}  // namespace

int CloneOrphan(clone_args args, pid_t middle_pid, absl::FunctionRef<void()> child, Orphan* orphan) {
  const bool into_cgroup = (args.flags & CLONE_INTO_CGROUP) != 0;
  // The kernel charges a process's stack, and its first page tables, to the cgroup of its maker.
  const int error = Clone(args, middle_pid, into_cgroup, child, orphan);
  // There may be room for no more than the new one (pids.max).
  return error == EAGAIN && into_cgroup ? Clone(args, middle_pid, false, child, orphan) : error;
}

}  // namespace moult::engine
