// SPDX-License-Identifier: Apache-2.0
#include "image/before.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>

#include "proc/read.h"
#include "proc/text.h"
#include "resource/memory/capture.h"
#include "resource/process/capture.h"
#include "resource/thread/capture.h"
#include "resource/thread/scheduling.h"

namespace moult::engine {
namespace {

constexpr int kAttempts = 3;

// "time on CPUs, time waiting, number of times on a CPU"; 0 where the kernel does not count.
uint64_t ReadRuns(int schedstat) {
  char text[96];
  const ssize_t n = pread(schedstat, text, sizeof(text), 0);
  if (n <= 0) return 0;
  proc::Scanner scanner(std::string_view(text, static_cast<size_t>(n)));
  uint64_t on = 0;
  uint64_t waiting = 0;
  uint64_t runs = 0;
  return scanner.Dec(&on) && scanner.Dec(&waiting) && scanner.Dec(&runs) ? runs : 0;
}

bool WasInterrupted(uint64_t rax) {
  const auto result = static_cast<int64_t>(rax);
  return result == -EINTR || (result <= -512 && result >= -516);  // ERESTARTSYS .. ERESTART_RESTARTBLOCK
}

// "nr 0xarg .. 0xarg 0xsp 0xpc" of a thread that sleeps in a call.
bool StandsIn(const std::string& call, const user_regs_struct& regs) {
  proc::Scanner scanner(call);
  int64_t nr = -1;
  if (!scanner.Dec(&nr) || nr < 0 || nr != static_cast<int64_t>(regs.orig_rax)) return false;
  for (const uint64_t wanted :
       {regs.rdi, regs.rsi, regs.rdx, regs.r10, regs.r8, regs.r9, regs.rsp, regs.rip}) {
    uint64_t value = 0;
    if (!scanner.Blanks() || !scanner.Literal("0x") || !scanner.Hex(&value) || value != wanted) return false;
  }
  return WasInterrupted(regs.rax);
}

}  // namespace

bool Before::AskThread(pid_t pid, pid_t tid) {
  const std::string task = absl::StrCat("/proc/", pid, "/task/", tid);
  ThreadBefore thread;
  thread.tid = tid;
  thread.schedstat.Reset(open((task + "/schedstat").c_str(), O_RDONLY | O_CLOEXEC));
  if (!thread.schedstat.valid()) return false;
  thread.runs = ReadRuns(thread.schedstat.get());
  auto call = proc::ReadFile(task + "/syscall");
  if (thread.runs == 0 || !call.ok() || call->empty() || call->front() < '0' || call->front() > '9')
    return false;
  thread.call = *std::move(call);
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
