// SPDX-License-Identifier: Apache-2.0
#include "resource/signal/restore.h"

#include <csignal>
#include <cstring>

#include <sys/syscall.h>

#include "absl/strings/str_cat.h"
#include "resource/signal/kernel_signal.h"

namespace moult::engine {

using ptrace::Arg;

void PlanActions(const image::ProcessT& process, ptrace::ProgramBuilder& program) {
  for (int sig = 1; sig <= kSignalCount; ++sig) {
    if (sig == SIGKILL || sig == SIGSTOP) continue;
    const image::SigAction& saved = process.signal_actions[static_cast<size_t>(sig - 1)];
    const KernelSigaction action{saved.handler(), saved.flags(), saved.restorer(), saved.mask()};
    const size_t data = program.AddObject(action);
    program.Call(absl::StrCat("rt_sigaction of signal ", sig), SYS_rt_sigaction, {sig, Arg::Data(data), 0, kSigsetSize});
  }
}

void PlanPending(pid_t pid, pid_t tid, const std::vector<std::unique_ptr<image::PendingSignalT>>& pending,
                 ptrace::ProgramBuilder& program) {
  for (const auto& signal : pending) {
    int number;
    std::memcpy(&number, signal->siginfo.data(), sizeof(number));
    const size_t info = program.AddVector(signal->siginfo);
    if (tid == 0) {
      program.Call(absl::StrCat("queue signal ", number), SYS_rt_sigqueueinfo, {pid, number, Arg::Data(info)});
    } else {
      program.Call(absl::StrCat("queue signal ", number), SYS_rt_tgsigqueueinfo, {pid, tid, number, Arg::Data(info)});
    }
  }
}

}  // namespace moult::engine
