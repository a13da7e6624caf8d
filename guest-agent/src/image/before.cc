// SPDX-License-Identifier: Apache-2.0
#include "image/before.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "proc/read.h"
#include "resource/memory/capture.h"
#include "resource/process/capture.h"
#include "resource/thread/check.h"
#include "resource/thread/scheduling.h"

namespace moult::engine {
namespace {

constexpr int kAttempts = 3;

// 0 where the kernel does not count.
uint64_t ReadRuns(int schedstat) {
  char text[96];
  const ssize_t n = pread(schedstat, text, sizeof(text), 0);
  if (n <= 0) return 0;
  return proc::ParseSchedstatRuns({text, static_cast<size_t>(n)}).value_or(0);
}

bool WasInterrupted(uint64_t rax) {
  const auto result = static_cast<int64_t>(rax);
  return result == -EINTR || (result <= -512 && result >= -516);  // ERESTARTSYS .. ERESTART_RESTARTBLOCK
}

bool StandsIn(const proc::SleepingCall& call, const user_regs_struct& regs) {
  const proc::SleepingCall now{static_cast<int64_t>(regs.orig_rax),
                               {regs.rdi, regs.rsi, regs.rdx, regs.r10, regs.r8, regs.r9},
                               regs.rsp,
                               regs.rip};
  return call == now && WasInterrupted(regs.rax);
}

}  // namespace

bool Before::AskThread(pid_t pid, pid_t tid) {
  const std::string task = absl::StrCat("/proc/", pid, "/task/", tid);
  ThreadBefore thread;
  thread.tid = tid;
  thread.schedstat.Reset(open((task + "/schedstat").c_str(), O_RDONLY | O_CLOEXEC));
  if (!thread.schedstat.valid()) return false;
  thread.runs = ReadRuns(thread.schedstat.get());
  auto call_text = proc::ReadFile(task + "/syscall");
  if (thread.runs == 0 || !call_text.ok()) return false;
  const auto call = proc::ParseSyscall(*call_text);
  if (!call.ok() || !call->has_value()) return false;
  thread.call = **call;
  auto text = proc::ReadFile(task + "/status");
  if (!text.ok()) return false;
  auto status = proc::ParseStatus(*text);
  auto scheduling = CaptureScheduling(tid);
  if (!status.ok() || !scheduling.ok()) return false;
  thread.status = *std::move(status);
  thread.scheduling = *std::move(scheduling);
  plain_ = plain_ && CheckThreadAlone(pid, tid).ok() && CheckThreadSharesAll(pid, tid).ok();
  threads_.push_back(std::move(thread));
  return true;
}

bool Before::AskOnce(pid_t pid) {
  auto tids = proc::ListNumeric(absl::StrCat("/proc/", pid, "/task"));
  if (!tids.ok()) return false;
  for (const pid_t tid : *tids) {
    if (!AskThread(pid, tid)) return false;
  }
  auto statm = proc::ReadFile(absl::StrCat("/proc/", pid, "/statm"));
  auto layout = ReadLayout(pid);
  if (!statm.ok() || !layout.ok()) return false;
  statm_ = *std::move(statm);
  layout_ = *std::move(layout);
  return std::all_of(threads_.begin(), threads_.end(),
                     [](const ThreadBefore& t) { return ReadRuns(t.schedstat.get()) == t.runs; });
}

Before Before::Ask(pid_t pid) {
  Before before;
  for (int i = 0; i < kAttempts && !before.complete_; ++i) {
    before.threads_.clear();
    before.plain_ = true;
    before.complete_ = before.AskOnce(pid);
  }
  return before;
}

bool Before::SleptThrough(const ptrace::Tracee& tracee) {
  if (!complete_ || tracee.threads().size() != threads_.size()) return false;
  slept_ = true;
  for (const ptrace::TracedThread& traced : tracee.threads()) {
    const ThreadBefore* thread = Find(traced.tid);
    if (thread == nullptr || ReadRuns(thread->schedstat.get()) != thread->runs + 1 ||
        !StandsIn(thread->call, traced.regs))
      return false;
  }
  // Others can write to its memory, and the kernel can swap it out.
  auto statm = proc::ReadFile(absl::StrCat("/proc/", tracee.pid(), "/statm"));
  return statm.ok() && *statm == statm_;
}

bool Before::Settle(const ptrace::Tracee& tracee) {
  slept_ = SleptThrough(tracee);
  if (!slept_) threads_.clear();
  for (ThreadBefore& thread : threads_) thread.schedstat.Reset();
  return slept_;
}

ThreadBefore* Before::Find(pid_t tid) {
  if (!slept_) return nullptr;
  const auto it =
      std::lower_bound(threads_.begin(), threads_.end(), tid,
                       [](const ThreadBefore& thread, pid_t wanted) { return thread.tid < wanted; });
  return it == threads_.end() || it->tid != tid ? nullptr : &*it;
}

}  // namespace moult::engine
