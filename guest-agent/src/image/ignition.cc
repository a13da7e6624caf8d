// SPDX-License-Identifier: Apache-2.0
#include "image/ignition.h"

#include <csignal>
#include <cstring>
#include <ctime>
#include <map>

#include <elf.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/user.h>
#include <sys/wait.h>

#include "absl/strings/match.h"
#include "image/control.h"
#include "image/host.h"
#include "parasite/blob.h"
#include "proc/read.h"
#include "proc/status.h"
#include "ptrace/wait.h"
#include "resource/thread/interrupted.h"

namespace moult::engine {
namespace {

// A program reads all of the template's pages: as long as a slow disk needs for many GiB.
constexpr std::chrono::seconds kProgramTimeout{300};
constexpr uint64_t kNoSyscall = ~uint64_t{0};
constexpr uint64_t kErestartNoIntr = static_cast<uint64_t>(-513);
constexpr uint64_t kErestartRestartBlock = static_cast<uint64_t>(-516);

long Ptrace(int request, pid_t tid, uint64_t address, uint64_t data) {
  return ::ptrace(static_cast<__ptrace_request>(request), tid, address, data);
}
template <typename T>
uint64_t PtrArg(T* object) {
  return reinterpret_cast<uint64_t>(object);
}

user_regs_struct ToUserRegs(const image::GpRegs& regs) {
  user_regs_struct out;
  static_assert(sizeof(out) == sizeof(regs));
  std::memcpy(&out, &regs, sizeof(out));
  return out;
}

// Of a call on a thread of the new process, which anyone may have killed.
absl::Status Failed(pid_t tid, absl::string_view what) {
  const int error = errno;
  if (error == ESRCH || ptrace::IsEnding(tid)) return absl::UnavailableError(absl::StrCat(what, ": the new process was killed meanwhile; try again"));
  return ErrnoStatus(error, what);
}

}  // namespace

absl::StatusOr<int> Ignition::WaitStop(pid_t tid) {
  auto status = ptrace::WaitChild(tid, ptrace::Clock::now() + kProgramTimeout);
  if (absl::IsDeadlineExceeded(status.status())) {
    return absl::DeadlineExceededError(absl::StrCat("thread ", tid, " of the new process hangs; its memory may be read from a disk that does not answer"));
  }
  if (!status.ok()) return absl::UnavailableError("the new process was killed meanwhile; try again");
  if (!ptrace::IsGone(*status)) return *status;
  const auto* control = reinterpret_cast<const Control*>(view_);
  if (control->code != 0) return absl::Status(static_cast<absl::StatusCode>(control->code), control->message);
  return absl::UnavailableError(absl::StrCat("the new process ", ptrace::DescribeStatus(*status), " before it was complete (out of memory, or killed by someone)"));
}

absl::Status Ignition::CheckProgram(size_t offset, const ptrace::ProgramBuilder& program) const {
  const ptrace::ProgramResult result(program, std::vector<std::byte>(view_ + offset, view_ + offset + program.Size()));
  if (result.failed() == 0) return absl::OkStatus();
  const size_t op = result.failed() - 1;
  const int64_t value = result.result(op);
  if (value >= 0) return absl::InternalError(absl::StrCat(program.what(op), ": returned ", value));
  return ErrnoStatus(static_cast<int>(-value), program.what(op));
}

absl::Status Ignition::AwaitPrograms() {
  for (;;) {
    MOULT_ASSIGN_OR_RETURN(const int status, WaitStop(pid_));
    if (!ptrace::IsEventStop(status) && WSTOPSIG(status) == SIGTRAP) break;
    // A stop that does not come from the program's end is passed over, a fault is the end.
    if (!ptrace::IsEventStop(status) && WSTOPSIG(status) != SIGSTOP) {
      user_regs_struct regs{};
      Ptrace(PTRACE_GETREGS, pid_, 0, PtrArg(&regs));
      return absl::InternalError(absl::StrFormat("the new process got signal %d at %#x", WSTOPSIG(status), regs.rip));
    }
    Ptrace(PTRACE_CONT, pid_, 0, 0);
  }
  for (size_t i = 0; i < plan_.threads.size(); ++i) {
    MOULT_RETURN_IF_ERROR(Annotate(CheckProgram(plan_.layout.threads[i].program, plan_.threads[i]),
                                   absl::StrCat("thread ", process_.threads[i + 1]->tid)));
  }
  const absl::Status status = CheckProgram(plan_.layout.leader_program, plan_.leader);
  if (!absl::StrContains(status.message(), "start thread ")) return status;
  if (absl::IsAlreadyExists(status)) {
    return absl::FailedPreconditionError(absl::StrCat(status.message(), ": that thread id is taken by now; use --sandbox, or end the process that has it"));
  }
  return absl::IsUnavailable(status) ? WithRemedy(status, kCloneRemedy) : status;  // EAGAIN
}

uint64_t Ignition::FillMicros() const {
  const auto micros = [&](size_t data) {
    timespec time;
    std::memcpy(&time, view_ + plan_.layout.leader_program + plan_.leader.DataOffset() + data, sizeof(time));
    return time.tv_sec * 1'000'000 + time.tv_nsec / 1000;
  };
  return static_cast<uint64_t>(micros(plan_.fill.end) - micros(plan_.fill.begin));
}

absl::Status Ignition::MapTids() {
  tids_.assign(process_.threads.size(), 0);
  tids_[0] = pid_;
  if (tids_.size() == 1) return absl::OkStatus();
  std::map<pid_t, size_t> index_of;
  for (size_t i = 0; i < process_.threads.size(); ++i) index_of[process_.threads[i]->tid] = i;
  MOULT_ASSIGN_OR_RETURN(const std::vector<int> tasks, proc::ListNumeric(absl::StrCat("/proc/", pid_, "/task")));
  // Outside a sandbox the numbers are what they were.
  const bool same = pid_ == process_.pid;
  for (const pid_t task : tasks) {
    pid_t inner = task;
    if (!same) {
      MOULT_ASSIGN_OR_RETURN(const std::string text, proc::ReadFile(absl::StrCat("/proc/", pid_, "/task/", task, "/status")));
      MOULT_ASSIGN_OR_RETURN(const proc::Status status, proc::ParseStatus(text));
      inner = status.ns_pid.empty() ? task : status.ns_pid.back();
    }
    const auto it = index_of.find(inner);
    // A thread that SIGKILL has ended has no number any more, when the leader may not even have seen the signal.
    if (inner == 0 || (it == index_of.end() && ptrace::IsEnding(pid_))) {
      return absl::UnavailableError("the new process was killed meanwhile; try again");
    }
    if (it == index_of.end()) return absl::InternalError(absl::StrCat("the new process has a thread ", inner, " too many"));
    tids_[it->second] = task;
  }
  return absl::OkStatus();
}

absl::Status Ignition::SeizeThreads() {
  MOULT_RETURN_IF_ERROR(MapTids());
  for (size_t i = 1; i < tids_.size(); ++i) {
    if (Ptrace(PTRACE_SEIZE, tids_[i], 0, PTRACE_O_EXITKILL | PTRACE_O_SUSPEND_SECCOMP) < 0 ||
        Ptrace(PTRACE_INTERRUPT, tids_[i], 0, 0) < 0) {
      return Failed(tids_[i], absl::StrCat("attach to new thread ", tids_[i]));
    }
  }
  for (size_t i = 1; i < tids_.size(); ++i) {
    MOULT_ASSIGN_OR_RETURN(const int status, WaitStop(tids_[i]));
    if (!ptrace::IsEventStop(status)) return absl::InternalError(absl::StrCat("new thread ", tids_[i], " ", ptrace::DescribeStatus(status)));
  }
  // The kernel's vdso has a syscall instruction that stays when the region goes.
  for (const auto& vma : process_.memory->vmas) {
    if (vma->kind == image::VmaKind::Vdso) {
      MOULT_ASSIGN_OR_RETURN(const uint64_t offset, VdsoSyscallOffset());
      gadget_ = vma->start + offset;
    }
  }
  if (gadget_ == 0) return absl::FailedPreconditionError("the template has no vdso mapping");
  return absl::OkStatus();
}

absl::Status Ignition::RunLatePrograms() {
  for (size_t i = 0; i < tids_.size(); ++i) {
    const size_t offset = plan_.layout.late_programs[i];
    if (offset == 0) continue;
    user_regs_struct regs = ToUserRegs(*process_.threads[i]->regs);
    regs.orig_rax = kNoSyscall;
    regs.rip = (plan_.layout.address + plan_.layout.blob + parasite::RunOffset()).value();
    regs.rdi = (plan_.layout.address + offset).value();
    regs.rsp = (plan_.layout.address + offset).value() - 8;
    regs.eflags = 0x202;
    if (Ptrace(PTRACE_SETREGS, tids_[i], 0, PtrArg(&regs)) < 0 || Ptrace(PTRACE_CONT, tids_[i], 0, 0) < 0) {
      return Failed(tids_[i], absl::StrCat("run in new thread ", tids_[i]));
    }
    MOULT_ASSIGN_OR_RETURN(const int status, WaitStop(tids_[i]));
    if (WSTOPSIG(status) != SIGTRAP) return absl::InternalError(absl::StrCat("new thread ", tids_[i], " ", ptrace::DescribeStatus(status)));
    MOULT_RETURN_IF_ERROR(CheckProgram(offset, plan_.late[i]));
  }
  return absl::OkStatus();
}

// Issues the interrupted call again with the time that remained, and interrupts it at once: the kernel then
// holds a restart block as if the first call had never ended.
absl::Status Ignition::SeedRestart(size_t index, const image::GpRegs& saved, user_regs_struct& final_regs) {
  const image::ThreadT& thread = *process_.threads[index];
  const pid_t tid = tids_[index];
  // The memory that the call's arguments point at is in place by now.
  const auto read = [&](uint64_t address, absl::Span<std::byte> out) -> absl::Status {
    iovec local{out.data(), out.size()};
    iovec remote{reinterpret_cast<void*>(address), out.size()};
    if (process_vm_readv(pid_, &local, 1, &remote, 1, 0) != static_cast<ssize_t>(out.size())) return absl::NotFoundError("unmapped");
    return absl::OkStatus();
  };
  const InterruptedCall call = ClassifyInterrupted(saved, read);
  if (call.nr < 0) {
    // A call that we do not know ends as any call may that a signal interrupts.
    final_regs.rax = static_cast<uint64_t>(-EINTR);
    final_regs.orig_rax = kNoSyscall;
    return absl::OkStatus();
  }
  int64_t remaining = thread.sleep_remaining_ns;
  if (remaining < 0) remaining = call.requested_ns.value_or(-1);
  if (remaining < 0 || call.absolute) {
    // No time limit, or a point in time: the same call again.
    final_regs.rax = kErestartNoIntr;
    final_regs.orig_rax = static_cast<uint64_t>(call.nr);
    return absl::OkStatus();
  }
  const timespec time{remaining / 1'000'000'000, remaining % 1'000'000'000};
  const size_t scratch = plan_.layout.scratch[index];
  std::memcpy(view_ + scratch, &time, sizeof(time));
  const uint64_t time_address = (plan_.layout.address + scratch).value();
  user_regs_struct regs = ToUserRegs(saved);
  regs.orig_rax = kNoSyscall;
  regs.rax = static_cast<uint64_t>(call.nr);
  regs.rip = gadget_;
  switch (call.nr) {
    case SYS_nanosleep:
      regs.rdi = time_address;
      break;
    case SYS_clock_nanosleep:
      regs.rdx = time_address;
      break;
    case SYS_poll:
      regs.rdx = static_cast<uint64_t>((remaining + 999'999) / 1'000'000);
      break;
    default:  // SYS_futex
      regs.r10 = time_address;
      break;
  }
  if (Ptrace(PTRACE_SETREGS, tid, 0, PtrArg(&regs)) < 0 || Ptrace(PTRACE_SYSCALL, tid, 0, 0) < 0) return Failed(tid, "restart a sleep");
  MOULT_RETURN_IF_ERROR(WaitStop(tid).status());  // about to enter the call
  if (Ptrace(PTRACE_INTERRUPT, tid, 0, 0) < 0 || Ptrace(PTRACE_CONT, tid, 0, 0) < 0) return Failed(tid, "restart a sleep");
  MOULT_RETURN_IF_ERROR(WaitStop(tid).status());
  if (Ptrace(PTRACE_GETREGS, tid, 0, PtrArg(&regs)) < 0) return Failed(tid, "restart a sleep");
  final_regs.rax = regs.rax;
  if (regs.rax != kErestartRestartBlock) final_regs.orig_rax = kNoSyscall;  // it has ended
  return absl::OkStatus();
}

absl::Status Ignition::SetStates() {
  std::vector<user_regs_struct> final_regs;
  for (size_t i = 0; i < tids_.size(); ++i) {
    user_regs_struct regs = ToUserRegs(*process_.threads[i]->regs);
    if (regs.rax == kErestartRestartBlock && static_cast<int64_t>(regs.orig_rax) >= 0) {
      MOULT_RETURN_IF_ERROR(SeedRestart(i, *process_.threads[i]->regs, regs));
    }
    final_regs.push_back(regs);
  }
  MOULT_RETURN_IF_ERROR(UnmapRegion());
  for (size_t i = 0; i < tids_.size(); ++i) {
    const image::ThreadT& thread = *process_.threads[i];
    iovec xsave{const_cast<uint8_t*>(thread.xsave.data()), thread.xsave.size()};
    uint64_t mask = thread.sigmask;
    if (Ptrace(PTRACE_SETREGSET, tids_[i], NT_X86_XSTATE, PtrArg(&xsave)) < 0) return Failed(tids_[i], absl::StrCat("set the FPU state of new thread ", tids_[i]));
    if (Ptrace(PTRACE_SETREGS, tids_[i], 0, PtrArg(&final_regs[i])) < 0) return Failed(tids_[i], absl::StrCat("set the registers of new thread ", tids_[i]));
    if (Ptrace(static_cast<int>(PTRACE_SETSIGMASK), tids_[i], sizeof(mask), PtrArg(&mask)) < 0) return Failed(tids_[i], absl::StrCat("set the signal mask of new thread ", tids_[i]));
  }
  return absl::OkStatus();
}

// Entry stop, exit stop: these are no signals, unlike a single step, and leave the handler of SIGTRAP alone.
absl::StatusOr<uint64_t> Ignition::CallInLeader(const char* what, uint64_t nr, uint64_t a, uint64_t b, uint64_t c, uint64_t d) {
  user_regs_struct regs = ToUserRegs(*process_.threads.front()->regs);
  regs.orig_rax = kNoSyscall;
  regs.rax = nr;
  regs.rdi = a;
  regs.rsi = b;
  regs.rdx = c;
  regs.r10 = d;
  regs.rip = gadget_;
  if (Ptrace(PTRACE_SETREGS, pid_, 0, PtrArg(&regs)) < 0) return Failed(pid_, what);
  for (int stop = 0; stop < 2; ++stop) {
    if (Ptrace(PTRACE_SYSCALL, pid_, 0, 0) < 0) return Failed(pid_, what);
    MOULT_ASSIGN_OR_RETURN(const int status, WaitStop(pid_));
    if (WSTOPSIG(status) != SIGTRAP) return absl::InternalError(absl::StrCat(what, ": ", ptrace::DescribeStatus(status)));
  }
  if (Ptrace(PTRACE_GETREGS, pid_, 0, PtrArg(&regs)) < 0) return Failed(pid_, what);
  return regs.rax;
}

absl::Status Ignition::UnmapRegion() {
  // The breakpoint at the end of the program has reset an ignored SIGTRAP to its default.
  const image::SigAction& trap = process_.signal_actions[SIGTRAP - 1];
  if (trap.handler() == reinterpret_cast<uint64_t>(SIG_IGN)) {
    const uint64_t action[4] = {trap.handler(), trap.flags(), trap.restorer(), trap.mask()};
    const size_t scratch = plan_.layout.scratch.front();
    std::memcpy(view_ + scratch, action, sizeof(action));
    MOULT_ASSIGN_OR_RETURN(const uint64_t set, CallInLeader("ignore SIGTRAP", SYS_rt_sigaction, SIGTRAP, (plan_.layout.address + scratch).value(), 0, 8));
    if (set != 0) return ErrnoStatus(static_cast<int>(-static_cast<int64_t>(set)), "ignore SIGTRAP");
  }
  // SAFETY: the hole that the region was mapped into; no thread runs, and none will run from it again.
  MOULT_ASSIGN_OR_RETURN(const uint64_t unmapped, CallInLeader("unmap the restore region", SYS_munmap, plan_.layout.address.value(), plan_.layout.size, 0, 0));
  if (unmapped != 0) return ErrnoStatus(static_cast<int>(-static_cast<int64_t>(unmapped)), "unmap the restore region");
  return absl::OkStatus();
}

absl::Status Ignition::Release() {
  // Takes effect when it is no longer traced.
  if (process_.stopped && syscall(SYS_tgkill, pid_, pid_, SIGSTOP) < 0) return Failed(pid_, "stop it again");
  for (const pid_t tid : tids_) {
    if (Ptrace(PTRACE_DETACH, tid, 0, 0) < 0) return Failed(tid, absl::StrCat("let new thread ", tid, " go"));
  }
  return absl::OkStatus();
}

}  // namespace moult::engine
