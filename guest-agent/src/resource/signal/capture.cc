// SPDX-License-Identifier: Apache-2.0
#include "resource/signal/capture.h"

#include <sys/ptrace.h>
#include <sys/syscall.h>

#include "resource/signal/kernel_signal.h"

namespace moult::engine {

absl::Status CapturePending(pid_t tid, bool shared, std::vector<std::unique_ptr<image::PendingSignalT>>& out) {
  constexpr int kBatch = 32;
  unsigned char infos[kBatch][kSiginfoSize];
  for (uint64_t offset = 0;;) {
    struct {
      uint64_t off;
      uint32_t flags;
      int32_t nr;
    } args{offset, shared ? 1u : 0u, kBatch};  // PTRACE_PEEKSIGINFO_SHARED
    const long got = ::ptrace(static_cast<__ptrace_request>(PTRACE_PEEKSIGINFO), tid, &args, infos);
    if (got < 0) return ErrnoStatus(absl::StrCat("thread ", tid, ": read pending signals"));
    for (long i = 0; i < got; ++i) {
      auto signal = std::make_unique<image::PendingSignalT>();
      signal->siginfo.assign(infos[i], infos[i] + kSiginfoSize);
      out.push_back(std::move(signal));
    }
    if (got < kBatch) return absl::OkStatus();
    offset += kBatch;
  }
}

SignalQuestions AskSignals(ptrace::ProgramBuilder& program) {
  using ptrace::Arg;
  SignalQuestions ask{program.AddBuffer(kSignalCount * sizeof(KernelSigaction))};
  for (int sig = 1; sig <= kSignalCount; ++sig) {
    program.Call("rt_sigaction", SYS_rt_sigaction,
                 {sig, 0, Arg::Data(ask.actions + static_cast<size_t>(sig - 1) * sizeof(KernelSigaction)), kSigsetSize});
  }
  return ask;
}

void TakeAnswers(const SignalQuestions& questions, const ptrace::ProgramResult& result, image::ProcessT& process) {
  for (size_t i = 0; i < kSignalCount; ++i) {
    const auto action = result.Data<KernelSigaction>(questions.actions + i * sizeof(KernelSigaction));
    process.signal_actions.emplace_back(action.handler, action.flags, action.restorer, action.mask);
  }
}

}  // namespace moult::engine
