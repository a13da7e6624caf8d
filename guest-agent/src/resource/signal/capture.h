// SPDX-License-Identifier: Apache-2.0
#ifndef MOULT_RESOURCE_SIGNAL_CAPTURE_H_
#define MOULT_RESOURCE_SIGNAL_CAPTURE_H_

#include "image/capture_context.h"
#include "ptrace/program_builder.h"

namespace moult::engine {

// The queue of signals pending for a stopped thread, or (shared) for its process.
absl::Status CapturePending(pid_t tid, bool shared, std::vector<std::unique_ptr<image::PendingSignalT>>& out);

struct SignalQuestions {
  size_t actions;  // 64 kernel sigactions
};
SignalQuestions AskSignals(ptrace::ProgramBuilder& program);
void TakeAnswers(const SignalQuestions& questions, const ptrace::ProgramResult& result, image::ProcessT& process);

}  // namespace moult::engine

#endif  // MOULT_RESOURCE_SIGNAL_CAPTURE_H_
