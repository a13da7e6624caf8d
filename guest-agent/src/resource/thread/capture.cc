// SPDX-License-Identifier: Apache-2.0
#include "resource/thread/capture.h"

#include <cstring>

#include <elf.h>
#include <linux/mempolicy.h>
#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include "proc/read.h"
#include "resource/credentials/capture.h"
#include "resource/thread/interrupted.h"
#include "resource/thread/scheduling.h"
#include "resource/seccomp/capture.h"
#include "resource/signal/capture.h"

namespace moult::engine {
namespace {

constexpr size_t kMaxXsave = 16384;
constexpr int kSpeculation[] = {PR_SPEC_STORE_BYPASS, PR_SPEC_INDIRECT_BRANCH};

long Ptrace(int request, pid_t tid, uint64_t address, void* data) {
  return ::ptrace(static_cast<__ptrace_request>(request), tid, address, data);
}

absl::Status CaptureRegisters(const ptrace::TracedThread& traced, image::ThreadT& thread) {
  static_assert(sizeof(user_regs_struct) == sizeof(image::GpRegs));
  thread.regs = std::make_unique<image::GpRegs>();
  std::memcpy(static_cast<void*>(thread.regs.get()), &traced.regs, sizeof(traced.regs));
  thread.sigmask = traced.sigmask;
  // A vector of the largest size would be filled with zeros first, and keep its room for each thread.
  static thread_local const std::unique_ptr<uint8_t[]> buffer(new uint8_t[kMaxXsave]);
  iovec area{buffer.get(), kMaxXsave};
  if (Ptrace(PTRACE_GETREGSET, traced.tid, NT_X86_XSTATE, &area) < 0) {
    return ErrnoStatus(absl::StrCat("thread ", traced.tid, ": read XSAVE state"));
  }
  thread.xsave.assign(buffer.get(), buffer.get() + area.iov_len);
  return absl::OkStatus();
}

absl::Status CaptureRseqAndRobustList(const ptrace::TracedThread& traced, image::ThreadT& thread) {
  struct {
    uint64_t address;
    uint32_t size;
    uint32_t signature;
    uint32_t flags;
    uint32_t pad;
  } rseq{};
  constexpr int kGetRseqConfiguration = 0x420f;  // PTRACE_GET_RSEQ_CONFIGURATION, Linux 5.13
  if (Ptrace(kGetRseqConfiguration, traced.tid, sizeof(rseq), &rseq) > 0 && rseq.address != 0) {
    thread.rseq = std::make_unique<image::Rseq>(rseq.address, rseq.size, rseq.signature, rseq.flags);
  }
  void* head = nullptr;
  size_t length = 0;
  if (syscall(SYS_get_robust_list, traced.tid, &head, &length) == 0 && head != nullptr) {
    thread.robust_list = std::make_unique<image::RobustList>(reinterpret_cast<uint64_t>(head), length);
  }
  return absl::OkStatus();
}

template <typename Change>
void ChangeRegisters(image::ThreadT& thread, const Change& change) {
  user_regs_struct regs;
  std::memcpy(&regs, thread.regs.get(), sizeof(regs));
  change(regs);
  std::memcpy(static_cast<void*>(thread.regs.get()), &regs, sizeof(regs));
}

// A thread that is stopped inside a restartable sequence must not go on there on another CPU. The kernel would
// abort the sequence, but forgets it when the thread runs a program of ours: so it is aborted here, in the
// process itself as in the image.
absl::Status AbortRestartableSequence(ptrace::Tracee& tracee, size_t index, image::ThreadT& thread) {
  if (thread.rseq == nullptr) return absl::OkStatus();
  constexpr uint64_t kDescriptorField = 8;  // struct rseq.rseq_cs
  struct Descriptor {
    uint32_t version;
    uint32_t flags;
    uint64_t start;
    uint64_t length;
    uint64_t abort;
  } sequence{};
  uint64_t address = 0;
  const auto read = [&](uint64_t from, auto& to) { return tracee.Read(ptrace::RemotePtr(from), absl::MakeSpan(reinterpret_cast<std::byte*>(&to), sizeof(to))); };
  MOULT_RETURN_IF_ERROR(read(thread.rseq->address() + kDescriptorField, address));
  if (address == 0 || !read(address, sequence).ok()) return absl::OkStatus();
  if (thread.regs->rip() - sequence.start >= sequence.length) return absl::OkStatus();
  ChangeRegisters(thread, [&](user_regs_struct& regs) { regs.rip = sequence.abort; });
  tracee.SetInstruction(index, ptrace::RemotePtr(sequence.abort));
  return absl::OkStatus();
}

absl::Status CaptureThread(CaptureContext& context, const ptrace::TracedThread& traced) {
  auto thread = std::make_unique<image::ThreadT>();
  const std::string task = absl::StrCat("/proc/", context.pid(), "/task/", traced.tid);
  proc::Status status;
  ThreadBefore* before = context.before.Find(traced.tid);
  if (before != nullptr) {
    status = std::move(before->status);
  } else if (traced.tid == context.pid()) {
    status = context.status;
  } else {
    MOULT_ASSIGN_OR_RETURN(const std::string text, proc::ReadFile(absl::StrCat(task, "/status")));
    MOULT_ASSIGN_OR_RETURN(status, proc::ParseStatus(text));
  }
  thread->tid = status.ns_pid.empty() ? traced.tid : status.ns_pid.back();
  thread->comm.assign(status.name.begin(), status.name.end());
  MOULT_RETURN_IF_ERROR(CaptureRegisters(traced, *thread));
  MOULT_RETURN_IF_ERROR(CaptureRseqAndRobustList(traced, *thread));
  MOULT_RETURN_IF_ERROR(AbortRestartableSequence(context.tracee, context.process.threads.size(), *thread));
  MOULT_RETURN_IF_ERROR(CapturePending(traced.tid, /*shared=*/false, thread->pending));
  thread->credentials = CredentialsOf(status);
  if (before != nullptr) {
    thread->scheduling = std::move(before->scheduling);
  } else {
    MOULT_ASSIGN_OR_RETURN(thread->scheduling, CaptureScheduling(traced.tid));
  }
  MOULT_RETURN_IF_ERROR(CaptureSeccomp(context, traced.tid, status, *thread));
  context.process.threads.push_back(std::move(thread));
  return absl::OkStatus();
}

}  // namespace

ThreadQuestions AskThread(ptrace::ProgramBuilder& program) {
  using ptrace::Arg;
  ThreadQuestions ask{};
  ask.altstack = program.AddBuffer(sizeof(stack_t));
  program.Call("sigaltstack", SYS_sigaltstack, {0, Arg::Data(ask.altstack)});
  ask.tid_address = program.AddBuffer(sizeof(uint64_t));
  program.Call("prctl(PR_GET_TID_ADDRESS)", SYS_prctl, {PR_GET_TID_ADDRESS, Arg::Data(ask.tid_address)});
  ask.parent_death_signal = program.AddBuffer(sizeof(int));
  program.Call("prctl(PR_GET_PDEATHSIG)", SYS_prctl, {PR_GET_PDEATHSIG, Arg::Data(ask.parent_death_signal)});
  ask.tsc_mode = program.AddBuffer(sizeof(int));
  program.CallMayFail("prctl(PR_GET_TSC)", SYS_prctl, {PR_GET_TSC, Arg::Data(ask.tsc_mode)});
  ask.keep_caps_op = program.Call("prctl(PR_GET_KEEPCAPS)", SYS_prctl, {PR_GET_KEEPCAPS});
  ask.securebits_op = program.Call("prctl(PR_GET_SECUREBITS)", SYS_prctl, {PR_GET_SECUREBITS});
  ask.timer_slack_op = program.Call("prctl(PR_GET_TIMERSLACK)", SYS_prctl, {PR_GET_TIMERSLACK});
  ask.memory_policy = program.AddBuffer(sizeof(int));
  program.CallMayFail("get_mempolicy", SYS_get_mempolicy, {Arg::Data(ask.memory_policy), 0, 0, 0, 0});
  for (size_t i = 0; i < std::size(kSpeculation); ++i) {
    ask.speculation_ops[i] = program.CallMayFail("prctl(PR_GET_SPECULATION_CTRL)", SYS_prctl, {PR_GET_SPECULATION_CTRL, kSpeculation[i], 0, 0, 0});
  }
  return ask;
}

void TakeAnswers(const ThreadQuestions& questions, const ptrace::ProgramResult& result, CaptureContext& context, size_t index) {
  image::ThreadT& thread = *context.process.threads[index];
  const auto stack = result.Data<stack_t>(questions.altstack);
  if ((stack.ss_flags & SS_DISABLE) == 0) {
    thread.altstack = std::make_unique<image::AltStack>(reinterpret_cast<uint64_t>(stack.ss_sp), stack.ss_size,
                                                        static_cast<uint32_t>(stack.ss_flags));
  }
  thread.tid_address = result.Data<uint64_t>(questions.tid_address);
  thread.parent_death_signal = result.Data<int>(questions.parent_death_signal);
  thread.tsc_mode = static_cast<uint32_t>(result.Data<int>(questions.tsc_mode));
  thread.scheduling->timer_slack_ns = static_cast<uint64_t>(result.result(questions.timer_slack_op));
  thread.keep_caps = result.result(questions.keep_caps_op) != 0;
  thread.credentials->securebits = static_cast<uint32_t>(result.result(questions.securebits_op));
  if (result.Data<int>(questions.memory_policy) != MPOL_DEFAULT) {
    context.NoteOnce("comes back with the default memory policy (set_mempolicy)");
  }
  for (const size_t op : questions.speculation_ops) {
    constexpr uint64_t kDisabled = PR_SPEC_DISABLE | PR_SPEC_FORCE_DISABLE | PR_SPEC_DISABLE_NOEXEC;
    const int64_t answer = result.result(op);
    const auto state = static_cast<uint64_t>(answer);
    if (answer <= 0 || (state & PR_SPEC_PRCTL) == 0 || (state & kDisabled) == 0) continue;
    context.NoteOnce("comes back with the default speculation control (PR_SET_SPECULATION_CTRL)");
    break;
  }
}

absl::Status CaptureThreads(CaptureContext& context) {
  for (const ptrace::TracedThread& traced : context.tracee.threads()) {
    MOULT_RETURN_IF_ERROR(CaptureThread(context, traced));
  }
  return absl::OkStatus();
}

absl::Status CaptureSleeps(CaptureContext& context) {
  for (size_t i = 0; i < context.process.threads.size(); ++i) {
    auto& thread = context.process.threads[i];
    const auto known = context.restarted_sleeps.find(context.tracee.threads()[i].tid);
    if (known != context.restarted_sleeps.end() && thread->regs->orig_rax() == SYS_restart_syscall) {
      const long nr = NumberOfRestarted(*thread->regs, known->second);
      if (nr >= 0) ChangeRegisters(*thread, [nr](user_regs_struct& regs) { regs.orig_rax = static_cast<uint64_t>(nr); });
    }
    const InterruptedCall call = ClassifyInterrupted(*thread->regs, [&](uint64_t address, absl::Span<std::byte> out) {
      return context.tracee.Read(ptrace::RemotePtr(address), out);
    });
    if (call.kind != InterruptedCall::Kind::kRestartBlock) continue;
    std::optional<int64_t> remaining = call.remaining_ns;
    if (!remaining && !call.absolute && call.requested_ns.value_or(-1) > 0) {
      remaining = context.cancelled_timers.Remaining(*call.requested_ns);
    }
    if (remaining) thread->sleep_remaining_ns = *remaining;
  }
  return absl::OkStatus();
}

}  // namespace moult::engine
