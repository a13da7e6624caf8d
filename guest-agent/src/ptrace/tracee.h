// SPDX-License-Identifier: Apache-2.0
//
// A process stopped with ptrace, all threads of it, and syscall programs run inside.
//
// The tracee may die at any time: every call then returns kUnavailable ("... ended meanwhile").
// Signals: while a program runs, every signal but SIGKILL and SIGSTOP is blocked in the tracee; what comes
// meanwhile stays pending. A process that was stopped by job control stays so after Detach.
#ifndef MOULT_PTRACE_TRACEE_H_
#define MOULT_PTRACE_TRACEE_H_

#include <sys/types.h>
#include <sys/user.h>

#include <chrono>
#include <cstddef>
#include <memory>
#include <unordered_set>
#include <vector>

#include "absl/types/span.h"
#include "moult/base/status.h"
#include "moult/base/unique_fd.h"
#include "parasite/program.h"
#include "ptrace/program_builder.h"
#include "ptrace/remote_ptr.h"

namespace moult::ptrace {

struct TracedThread {
  pid_t tid = 0;
  user_regs_struct regs{};       // as it was stopped; what Detach puts back
  uint64_t sigmask = 0;          // the real mask, also inside sigsuspend and ppoll
  bool group_stopped = false;    // by job control
  bool waited = false;           // its stop has been seen
  bool dirty = false;            // regs or mask in the kernel differ from the above
};

struct ThreadProgram {
  size_t thread;                 // index into threads()
  const ProgramBuilder* program;
};

class Tracee {
 public:
  // Seizes `pid` and stops all its threads. On an error the process runs on as before.
  static absl::StatusOr<std::unique_ptr<Tracee>> SeizeAll(pid_t pid);
  ~Tracee();
  Tracee(const Tracee&) = delete;
  Tracee& operator=(const Tracee&) = delete;

  pid_t pid() const { return pid_; }
  int pidfd() const { return pidfd_.get(); }
  const std::vector<TracedThread>& threads() const { return threads_; }
  // When the first of them was told to stop.
  std::chrono::steady_clock::time_point stopped_since() const { return stopped_since_; }

  absl::Status Read(RemotePtr from, absl::Span<std::byte> to) const;
  absl::Status Write(RemotePtr to, absl::Span<const std::byte> from) const;

  // One system call in the leader, at the `syscall` instruction that SetSyscallGadget named.
  void SetSyscallGadget(RemotePtr instruction) { gadget_ = instruction; }
  absl::StatusOr<int64_t> RemoteSyscall(long nr, absl::Span<const uint64_t> args);

  // Runs programs inside: maps a region, writes parasite and programs, runs them (all threads at once),
  // reads the results back, unmaps. `hint`: where a hole of some MiB is, so that no mapping of the process
  // merges with the region.
  absl::StatusOr<std::vector<ProgramResult>> RunPrograms(RemotePtr hint, absl::Span<const ThreadProgram> programs);

  // The process's disposition of SIGTRAP is SIG_IGN, which running programs would otherwise lose.
  void set_ignores_trap(bool ignores) { ignores_trap_ = ignores; }
  // Lets a thread go on elsewhere than where it was stopped.
  void SetInstruction(size_t thread, RemotePtr at) {
    threads_[thread].regs.rip = at.value();
    threads_[thread].dirty = true;
  }

  // Restores registers and masks; it still stands. Should its tracer be killed from here on, it runs on as if
  // nothing had been.
  absl::Status PutBackAll();
  // Restores registers and masks and lets the process run (or stay stopped, where job control had it so).
  absl::Status Detach();
  // SIGKILL, and waits until every thread is gone.
  absl::Status Kill();

 private:
  Tracee(pid_t pid, UniqueFd pidfd) : pid_(pid), pidfd_(std::move(pidfd)) {}
  // Seizes what is new in the list, then stops it.
  absl::StatusOr<bool> SeizeNew(const std::vector<int>& tids);
  absl::Status StopFrom(size_t first);
  absl::Status SeizeThread(pid_t tid);
  absl::Status StopThread(TracedThread& thread);
  absl::Status Gone(pid_t tid) const;
  absl::Status SetRegs(TracedThread& thread, const user_regs_struct& regs);
  absl::Status BlockSignals(TracedThread& thread);
  // Continues until the expected SIGTRAP; job-control stops in between are continued over.
  absl::Status WaitTrap(TracedThread& thread, int resume_request);
  absl::Status RunMapped(RemotePtr region, absl::Span<const ThreadProgram> programs,
                         std::vector<ProgramResult>& results);
  absl::Status PutBack(TracedThread& thread);
  void StopRunning(absl::Span<const ThreadProgram> programs);
  absl::Status IgnoreTrapAgain(RemotePtr region);

  pid_t pid_;
  UniqueFd pidfd_;
  std::vector<TracedThread> threads_;
  std::unordered_set<pid_t> ended_;  // those that ended before they were stopped
  RemotePtr gadget_;
  bool ignores_trap_ = false;  // the disposition of SIGTRAP
  bool detached_ = false;
  std::chrono::steady_clock::time_point stopped_since_;
};

}  // namespace moult::ptrace

#endif  // MOULT_PTRACE_TRACEE_H_
