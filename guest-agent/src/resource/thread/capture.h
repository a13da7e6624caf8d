// SPDX-License-Identifier: Apache-2.0
#ifndef MOULT_RESOURCE_THREAD_CAPTURE_H_
#define MOULT_RESOURCE_THREAD_CAPTURE_H_

#include "image/capture_context.h"
#include "ptrace/program_builder.h"

namespace moult::engine {

// What only the thread itself can be asked: where the answers are in its program.
struct ThreadQuestions {
  size_t altstack;
  size_t tid_address;
  size_t parent_death_signal;
  size_t tsc_mode;
  size_t keep_caps_op;
  size_t securebits_op;
  size_t timer_slack_op;
  size_t memory_policy;
  size_t speculation_ops[2];
};
ThreadQuestions AskThread(ptrace::ProgramBuilder& program);

// Appends one ThreadT per thread of the tracee to the process, without the answers.
absl::Status CaptureThreads(CaptureContext& context);
void TakeAnswers(const ThreadQuestions& questions, const ptrace::ProgramResult& result, CaptureContext& context, size_t index);

// Fills `remaining` of relative sleeps that were interrupted, where the kernel told the process.
absl::Status CaptureSleeps(CaptureContext& context);

}  // namespace moult::engine

#endif  // MOULT_RESOURCE_THREAD_CAPTURE_H_
