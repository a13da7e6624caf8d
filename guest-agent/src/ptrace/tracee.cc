// SPDX-License-Identifier: Apache-2.0
#include "ptrace/tracee.h"

#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>

#include <algorithm>
#include <csignal>

#include "absl/strings/match.h"
#include "moult/base/page.h"
#include "parasite/blob.h"
#include "proc/read.h"
#include "proc/stat.h"
#include "ptrace/wait.h"

namespace moult::ptrace {
namespace {

constexpr size_t kStackSize = 1024;  // the parasite uses a few hundred bytes
// A SIGTRAP that the kernel forces on a thread that blocks it would reset its handler.
constexpr uint64_t kTrapBit = uint64_t{1} << (SIGTRAP - 1);
constexpr uint64_t kAllSignals = ~kTrapBit;

long Ptrace(int request, pid_t tid, uint64_t address, uint64_t data) {
  return ::ptrace(static_cast<__ptrace_request>(request), tid, address, data);
}

template <typename T>
uint64_t PtrArg(T* object) {
  return reinterpret_cast<uint64_t>(object);
}

// These come back with EINTR although a stop or continue is no reason for a program to see one, and are not
// restarted by the kernel. Without a time-out a restart is exact; with one, only the program knows what
// remains, so it sees the EINTR that signal(7) tells it to expect.
bool IsInterruptedForever(const user_regs_struct& regs) {
  if (static_cast<int64_t>(regs.rax) != -EINTR) return false;
  switch (static_cast<int64_t>(regs.orig_rax)) {
    case SYS_epoll_wait:
    case SYS_epoll_pwait:
      return static_cast<int32_t>(regs.r10) < 0;
    case SYS_epoll_pwait2:
      return regs.r10 == 0;
    case SYS_rt_sigtimedwait:
      return regs.rdx == 0;
    case SYS_semop:
      return true;
    case SYS_semtimedop:
      return regs.r10 == 0;
    default:
      return false;
  }
}

// As WaitChild, and kNotFound as soon as the thread is ending: that of a leader is not reported while other
// threads that we trace are not waited for, however dead they all are.
absl::StatusOr<int> WaitWhileAlive(pid_t tid, Clock::time_point deadline) {
  constexpr std::chrono::milliseconds kLook{20};
  for (;;) {
    const auto look = std::min(deadline, Clock::now() + kLook);
    auto status = WaitChild(tid, look);
    if (!absl::IsDeadlineExceeded(status.status())) return status;
    if (IsEnding(tid)) {
      // It may have been reported between the two.
      auto last = WaitChild(tid, Clock::now());
      if (!absl::IsDeadlineExceeded(last.status())) return last;
      return absl::NotFoundError(absl::StrCat("thread ", tid, " is ending"));
    }
    if (look == deadline) return status;
  }
}

// As the kernel counts them, those among them that have ended but are still listed; 0: not known. Costs less
// than a listing, which says no more when all that were stopped are there and there are as many.
size_t CountThreads(pid_t pid) {
  auto text = proc::ReadFile(absl::StrCat("/proc/", pid, "/stat"));
  if (!text.ok()) return 0;
  auto stat = proc::ParseStat(*text);
  return stat.ok() ? static_cast<size_t>(stat->num_threads) : 0;
}

constexpr uint64_t kErestartNoHand = static_cast<uint64_t>(-514);

}  // namespace

absl::Status Tracee::Gone(pid_t tid) const {
  return absl::UnavailableError(absl::StrCat("process ", pid_, ": thread ", tid, " ended meanwhile"));
}

absl::Status Tracee::SeizeThread(pid_t tid) {
  // Own filters of the process must not kill it for what we do in its name. Needs CAP_SYS_ADMIN; without it
  // a process with filters is refused later, one without does not care.
  if (Ptrace(PTRACE_SEIZE, tid, 0, PTRACE_O_SUSPEND_SECCOMP) == 0) return absl::OkStatus();
  if (errno == EPERM || errno == EINVAL) {
    if (Ptrace(PTRACE_SEIZE, tid, 0, 0) == 0) return absl::OkStatus();
  }
  const int error = errno;
  if (error == ESRCH || IsEnding(tid)) return Gone(tid);  // one that is ending gives EPERM, too
  const absl::Status status = ErrnoStatus(error, absl::StrCat("attach to thread ", tid));
  if (error != EPERM) return status;
  return WithRemedy(status, "run as root or with CAP_SYS_PTRACE, and end any debugger attached to it");
}

absl::Status Tracee::StopThread(TracedThread& thread) {
  const auto deadline = Clock::now() + kStopTimeout;
  for (;;) {
    auto status = WaitWhileAlive(thread.tid, deadline);
    if (absl::IsDeadlineExceeded(status.status())) {
      return absl::UnavailableError(
          absl::StrCat("process ", pid_, ": thread ", thread.tid,
                       " did not stop within 5 s (in uninterruptible I/O or vfork); try again"));
    }
    if (!status.ok()) return Gone(thread.tid);
    if (IsGone(*status)) return Gone(thread.tid);
    if (IsEventStop(*status)) {
      thread.group_stopped = IsGroupStop(*status);
      break;
    }
    // A signal came first: let it be delivered, the interrupt is still pending behind it.
    if (Ptrace(PTRACE_CONT, thread.tid, 0, static_cast<uint64_t>(WSTOPSIG(*status))) < 0)
      return Gone(thread.tid);
  }
  if (Ptrace(PTRACE_GETREGS, thread.tid, 0, PtrArg(&thread.regs)) < 0 ||
      Ptrace(static_cast<int>(PTRACE_GETSIGMASK), thread.tid, sizeof(thread.sigmask),
             PtrArg(&thread.sigmask)) < 0) {
    return Gone(thread.tid);
  }
  thread.waited = true;
  if (IsInterruptedForever(thread.regs)) {
    thread.regs.rax = kErestartNoHand;
    thread.dirty = true;
  }
  return absl::OkStatus();
}

absl::StatusOr<bool> Tracee::SeizeNew(const std::vector<int>& tids) {
  std::unordered_set<pid_t> known;
  for (const TracedThread& thread : threads_) known.insert(thread.tid);
  bool grown = false;
  for (const pid_t tid : tids) {
    if (known.count(tid) != 0) continue;
    const absl::Status seized = SeizeThread(tid);
    if (seized.ok()) {
      TracedThread thread;
      thread.tid = tid;
      threads_.push_back(thread);
      grown = true;
    } else if (absl::IsUnavailable(seized) && tid != pid_) {
      // A thread that ended between listing and attaching is no error, the process itself is. It may have started
      // others before; but it stays in the list until whoever traces it (we, if it was killed under us) waits for it.
      if (ended_.insert(tid).second) grown = true;
    } else {
      return seized;
    }
  }
  return grown;
}

absl::Status Tracee::StopFrom(size_t first) {
  if (stopped_since_ == Clock::time_point()) stopped_since_ = Clock::now();
  for (size_t i = first; i < threads_.size(); ++i) Ptrace(PTRACE_INTERRUPT, threads_[i].tid, 0, 0);
  for (size_t i = first; i < threads_.size();) {
    const absl::Status stopped = StopThread(threads_[i]);
    if (stopped.ok()) {
      ++i;
    } else if (absl::StrContains(stopped.message(), "ended meanwhile") && threads_[i].tid != pid_) {
      ended_.insert(threads_[i].tid);
      threads_.erase(threads_.begin() + static_cast<ptrdiff_t>(i));
    } else {
      return stopped;
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<Tracee>> Tracee::SeizeAll(pid_t pid) {
  BlockChildSignal();
  UniqueFd pidfd(static_cast<int>(syscall(SYS_pidfd_open, pid, 0)));
  if (!pidfd.valid()) return ErrnoStatus(absl::StrCat("open process ", pid));
  std::unique_ptr<Tracee> tracee(new Tracee(pid, std::move(pidfd)));
  const std::string task_dir = absl::StrCat("/proc/", pid, "/task");
  // A running thread can start others until it is stopped: repeat until there is none that is new.
  for (;;) {
    auto tids = proc::ListNumeric(task_dir);
    if (absl::IsNotFound(tids.status()))
      return absl::UnavailableError(absl::StrCat("process ", pid, " ended meanwhile"));
    if (!tids.ok()) return tids.status();
    const size_t first_new = tracee->threads_.size();
    MOULT_ASSIGN_OR_RETURN(const bool grown, tracee->SeizeNew(*tids));
    if (!grown) break;
    MOULT_RETURN_IF_ERROR(tracee->StopFrom(first_new));
    if (CountThreads(pid) == tracee->threads_.size()) break;
  }
  auto leader = std::find_if(tracee->threads_.begin(), tracee->threads_.end(),
                             [pid](const TracedThread& t) { return t.tid == pid; });
  if (leader == tracee->threads_.end()) {
    return absl::FailedPreconditionError(
        absl::StrCat("process ", pid, ": its first thread has ended (zombie leader)"));
  }
  std::rotate(tracee->threads_.begin(), leader, leader + 1);
  return tracee;
}

absl::Status Tracee::Read(RemotePtr from, absl::Span<std::byte> to) const {
  size_t done = 0;
  while (done < to.size()) {
    iovec local{to.data() + done, to.size() - done};
    // The remote side is only a number to us; the kernel checks it against the tracee's mappings.
    iovec remote{reinterpret_cast<void*>(from.value() + done), local.iov_len};
    const ssize_t n = process_vm_readv(pid_, &local, 1, &remote, 1, 0);
    if (n <= 0) {
      if (n < 0 && errno == ESRCH) return Gone(pid_);
      return ErrnoStatus(n < 0 ? errno : EFAULT,
                         absl::StrFormat("process %d: read memory at %#x", pid_, from.value() + done));
    }
    done += static_cast<size_t>(n);
  }
  return absl::OkStatus();
}

absl::Status Tracee::Write(RemotePtr to, absl::Span<const std::byte> from) const {
  size_t done = 0;
  while (done < from.size()) {
    iovec local{const_cast<std::byte*>(from.data() + done), from.size() - done};
    // SAFETY: callers write only into the region that RunPrograms mapped for itself.
    iovec remote{reinterpret_cast<void*>(to.value() + done), local.iov_len};
    const ssize_t n = process_vm_writev(pid_, &local, 1, &remote, 1, 0);
    if (n <= 0) {
      if (n < 0 && errno == ESRCH) return Gone(pid_);
      return ErrnoStatus(n < 0 ? errno : EFAULT,
                         absl::StrFormat("process %d: write memory at %#x", pid_, to.value() + done));
    }
    done += static_cast<size_t>(n);
  }
  return absl::OkStatus();
}

absl::Status Tracee::SetRegs(TracedThread& thread, const user_regs_struct& regs) {
  thread.dirty = true;
  if (Ptrace(PTRACE_SETREGS, thread.tid, 0, PtrArg(&regs)) < 0) return Gone(thread.tid);
  return absl::OkStatus();
}

absl::Status Tracee::BlockSignals(TracedThread& thread) {
  uint64_t mask = kAllSignals;
  thread.dirty = true;
  if (Ptrace(static_cast<int>(PTRACE_SETSIGMASK), thread.tid, sizeof(mask), PtrArg(&mask)) < 0)
    return Gone(thread.tid);
  return absl::OkStatus();
}

absl::Status Tracee::WaitTrap(TracedThread& thread, int resume_request) {
  const auto deadline = Clock::now() + kStopTimeout;
  for (;;) {
    auto status = WaitWhileAlive(thread.tid, deadline);
    if (absl::IsDeadlineExceeded(status.status())) {
      return absl::UnavailableError(
          absl::StrCat("process ", pid_, ": thread ", thread.tid,
                       " did not come back from a system call within 5 s; try again"));
    }
    if (!status.ok() || IsGone(*status)) return Gone(thread.tid);
    uint64_t inject = 0;
    if (!IsEventStop(*status)) {
      const int sig = WSTOPSIG(*status);
      if (sig == SIGTRAP) return absl::OkStatus();
      if (sig != SIGSTOP) {
        return absl::InternalError(absl::StrCat("process ", pid_, ": thread ", thread.tid,
                                                ": unexpected signal ", sig, " in the parasite"));
      }
      inject = SIGSTOP;  // cannot be blocked; the stop takes effect when we detach
    }
    if (Ptrace(resume_request, thread.tid, 0, inject) < 0) return Gone(thread.tid);
  }
}

absl::StatusOr<int64_t> Tracee::RemoteSyscall(long nr, absl::Span<const uint64_t> args) {
  TracedThread& leader = threads_.front();
  MOULT_RETURN_IF_ERROR(BlockSignals(leader));
  user_regs_struct regs = leader.regs;
  uint64_t arg[6] = {};
  std::copy(args.begin(), args.end(), arg);
  regs.rax = static_cast<uint64_t>(nr);
  regs.orig_rax = ~uint64_t{0};  // not in a system call: nothing to restart
  regs.rdi = arg[0];
  regs.rsi = arg[1];
  regs.rdx = arg[2];
  regs.r10 = arg[3];
  regs.r8 = arg[4];
  regs.r9 = arg[5];
  regs.rip = gadget_.value();
  MOULT_RETURN_IF_ERROR(SetRegs(leader, regs));
  // Entry stop, exit stop: unlike a single step, these are no signals, and leave the handler of SIGTRAP
  // alone.
  for (int stop = 0; stop < 2; ++stop) {
    if (Ptrace(PTRACE_SYSCALL, leader.tid, 0, 0) < 0) return Gone(leader.tid);
    MOULT_RETURN_IF_ERROR(WaitTrap(leader, PTRACE_SYSCALL));
  }
  if (Ptrace(PTRACE_GETREGS, leader.tid, 0, PtrArg(&regs)) < 0) return Gone(leader.tid);
  return static_cast<int64_t>(regs.rax);
}

absl::Status Tracee::RunMapped(RemotePtr region, absl::Span<const ThreadProgram> programs,
                               std::vector<ProgramResult>& results) {
  const size_t blob_size = AlignUp(parasite::BlobSize(), kPage);
  size_t size = blob_size;
  for (const ThreadProgram& run : programs) size += kStackSize + run.program->Size();
  std::vector<std::byte> bytes;
  bytes.reserve(size);
  bytes.resize(blob_size);
  std::memcpy(bytes.data(), parasite::BlobData(), parasite::BlobSize());
  std::vector<size_t> offsets;
  for (const ThreadProgram& run : programs) {
    bytes.resize(bytes.size() + kStackSize);
    offsets.push_back(bytes.size());
    const auto program = run.program->Build(region + bytes.size());
    bytes.insert(bytes.end(), program.begin(), program.end());
  }
  MOULT_RETURN_IF_ERROR(Write(region, bytes));
  for (size_t i = 0; i < programs.size(); ++i) {
    TracedThread& thread = threads_[programs[i].thread];
    MOULT_RETURN_IF_ERROR(BlockSignals(thread));
    user_regs_struct regs = thread.regs;
    regs.orig_rax = ~uint64_t{0};
    regs.rip = (region + parasite::RunOffset()).value();
    regs.rdi = (region + offsets[i]).value();
    regs.rsp = (region + offsets[i]).value() - 8;  // as after a call: 16-byte aligned plus 8
    regs.eflags = 0x202;                           // interrupts on, direction forward
    MOULT_RETURN_IF_ERROR(SetRegs(thread, regs));
  }
  for (const ThreadProgram& run : programs) {
    if (Ptrace(PTRACE_CONT, threads_[run.thread].tid, 0, 0) < 0) return Gone(threads_[run.thread].tid);
  }
  for (const ThreadProgram& run : programs) {
    MOULT_RETURN_IF_ERROR(WaitTrap(threads_[run.thread], PTRACE_CONT));
  }
  MOULT_RETURN_IF_ERROR(Read(region, absl::MakeSpan(bytes)));
  for (size_t i = 0; i < programs.size(); ++i) {
    const ProgramBuilder& program = *programs[i].program;
    const auto begin = bytes.begin() + static_cast<ptrdiff_t>(offsets[i]);
    results.emplace_back(program,
                         std::vector<std::byte>(begin, begin + static_cast<ptrdiff_t>(program.Size())));
    if (results.back().failed() != 0) {
      const size_t op = results.back().failed() - 1;
      return ErrnoStatus(static_cast<int>(-results.back().result(op)),
                         absl::StrCat("process ", pid_, ": ", program.what(op)));
    }
  }
  return absl::OkStatus();
}

// After an error some threads may still be in the region.
void Tracee::StopRunning(absl::Span<const ThreadProgram> programs) {
  for (const ThreadProgram& run : programs) {
    const pid_t tid = threads_[run.thread].tid;
    if (Ptrace(PTRACE_INTERRUPT, tid, 0, 0) == 0)
      static_cast<void>(WaitWhileAlive(tid, Clock::now() + std::chrono::seconds(1)));
  }
}

// The breakpoint at the end of a program resets an ignored SIGTRAP to its default.
absl::Status Tracee::IgnoreTrapAgain(RemotePtr region) {
  const uint64_t action[4] = {1 /* SIG_IGN */, 0, 0, 0};
  MOULT_RETURN_IF_ERROR(
      Write(region, absl::MakeConstSpan(reinterpret_cast<const std::byte*>(action), sizeof(action))));
  const uint64_t args[] = {SIGTRAP, region.value(), 0, sizeof(uint64_t)};
  auto result = RemoteSyscall(SYS_rt_sigaction, args);
  if (!result.ok()) return result.status();
  return *result == 0 ? absl::OkStatus()
                      : ErrnoStatus(static_cast<int>(-*result),
                                    absl::StrCat("process ", pid_, ": ignore SIGTRAP again"));
}

absl::StatusOr<std::vector<ProgramResult>> Tracee::RunPrograms(RemotePtr hint,
                                                               absl::Span<const ThreadProgram> programs) {
  size_t size = AlignUp(parasite::BlobSize(), kPage);
  for (const ThreadProgram& run : programs) size += kStackSize + run.program->Size();
  size = AlignUp(size, kPage);
  const uint64_t map_args[] = {
      hint.value(), size, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, ~uint64_t{0}, 0};
  MOULT_ASSIGN_OR_RETURN(const int64_t mapped, RemoteSyscall(SYS_mmap, map_args));
  if (mapped == -EACCES) {
    return absl::FailedPreconditionError(
        absl::StrCat("process ", pid_, ": it may have no memory that is both written and executed (PR_SET_MDWE, or a security module); run it without"));
  }
  if (mapped < 0 && mapped > -4096) {
    const auto error = static_cast<int>(-mapped);
    const absl::Status status = ErrnoStatus(error, absl::StrCat("process ", pid_, ": map ", size, " bytes for the parasite"));
    if (error == EAGAIN) return WithRemedy(status, "raise its RLIMIT_MEMLOCK (prlimit --memlock)");  // after mlockall(MCL_FUTURE)
    return error == ENOMEM ? WithRemedy(status, "raise its RLIMIT_AS (prlimit --as)") : status;
  }
  const RemotePtr region(static_cast<uint64_t>(mapped));
  std::vector<ProgramResult> results;
  absl::Status status = RunMapped(region, programs, results);
  if (!status.ok()) StopRunning(programs);
  if (ignores_trap_) status.Update(IgnoreTrapAgain(region));
  // SAFETY: exactly the region that mmap gave us above.
  const uint64_t unmap_args[] = {region.value(), size};
  auto unmapped = RemoteSyscall(SYS_munmap, unmap_args);
  if (!status.ok()) return status;
  if (!unmapped.ok()) return unmapped.status();
  if (*unmapped != 0)
    return ErrnoStatus(static_cast<int>(-*unmapped), absl::StrCat("process ", pid_, ": unmap the parasite"));
  return results;
}

absl::Status Tracee::PutBack(TracedThread& thread) {
  if (!thread.dirty) return absl::OkStatus();
  if (Ptrace(PTRACE_SETREGS, thread.tid, 0, PtrArg(&thread.regs)) < 0 ||
      Ptrace(static_cast<int>(PTRACE_SETSIGMASK), thread.tid, sizeof(thread.sigmask),
             PtrArg(&thread.sigmask)) < 0) {
    return Gone(thread.tid);
  }
  thread.dirty = false;
  return absl::OkStatus();
}

absl::Status Tracee::PutBackAll() {
  for (TracedThread& thread : threads_) MOULT_RETURN_IF_ERROR(PutBack(thread));
  return absl::OkStatus();
}

absl::Status Tracee::Detach() {
  if (detached_) return absl::OkStatus();
  detached_ = true;
  absl::Status first;
  // Backwards: a leader that died is reported only after all others.
  for (auto it = threads_.rbegin(); it != threads_.rend(); ++it) {
    TracedThread& thread = *it;
    absl::Status status;
    uint64_t inject = 0;
    if (thread.waited) status = PutBack(thread);
    // One that is not stopped, or whose stop was not seen (after an error), is waited for: what it stands in
    // may be a signal that must not be lost.
    if (!thread.waited || (Ptrace(PTRACE_DETACH, thread.tid, 0, 0) < 0 && errno == ESRCH)) {
      Ptrace(PTRACE_INTERRUPT, thread.tid, 0, 0);
      auto stop = WaitWhileAlive(thread.tid, Clock::now() + kStopTimeout);
      if (stop.ok() && !IsGone(*stop)) {
        if (!IsEventStop(*stop) && WSTOPSIG(*stop) != SIGTRAP)
          inject = static_cast<uint64_t>(WSTOPSIG(*stop));
        if (thread.waited) status.Update(PutBack(thread));
        Ptrace(PTRACE_DETACH, thread.tid, 0, inject);
      }
    }
    first.Update(status);
  }
  return first;
}

absl::Status Tracee::Kill() {
  detached_ = true;
  if (syscall(SYS_pidfd_send_signal, pidfd_.get(), SIGKILL, nullptr, 0) < 0 && errno != ESRCH) {
    return ErrnoStatus(absl::StrCat("kill process ", pid_));
  }
  const auto deadline = Clock::now() + std::chrono::seconds(30);
  const auto await_end = [deadline](pid_t tid) {
    for (;;) {
      auto status = WaitChild(tid, deadline);
      if (!status.ok() || IsGone(*status)) break;
    }
  };
  // The leader, which is first in the list, is reported last, after all others that we trace, also those that ended as they were attached to.
  for (const pid_t tid : ended_) await_end(tid);
  for (auto it = threads_.rbegin(); it != threads_.rend(); ++it) await_end(it->tid);
  return absl::OkStatus();
}

Tracee::~Tracee() { static_cast<void>(Detach()); }

}  // namespace moult::ptrace
