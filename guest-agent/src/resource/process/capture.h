// SPDX-License-Identifier: Apache-2.0
#ifndef MOULT_RESOURCE_PROCESS_CAPTURE_H_
#define MOULT_RESOURCE_PROCESS_CAPTURE_H_

#include "image/capture_context.h"
#include "ptrace/program_builder.h"

namespace moult::engine {

// What can be refused without stopping the process: kernel threads, zombies, ourselves, pid 1, traced ones.
absl::Status CheckCapturable(pid_t pid);
// The rest, once it is stopped: children, foreign namespaces.
absl::Status CheckThreadAlone(pid_t pid, pid_t tid);
absl::Status CheckAlone(const CaptureContext& context);
// Whether it lives in pid, mount, ipc or time namespaces of its own; other foreign namespaces are refused.
// `*root` is then how its mount namespace's root is reached from here.
absl::StatusOr<bool> CheckNamespaces(const CaptureContext& context, std::string* root);

struct ProcessQuestions {
  size_t brk_op;
  size_t dumpable_op;
  size_t subreaper;
  size_t membarrier_op;
  size_t membarrier_private_op;
  size_t new_page_locked_op;  // -EINVAL: a new mapping is locked (mlockall(MCL_FUTURE))
  size_t new_page_resident;   // and its first page is there at once (no MCL_ONFAULT)
  size_t ldt_op;              // bytes of a local descriptor table
  size_t memory_merge_op;
  size_t clocks;  // three timespec: monotonic, boottime, realtime
};
ProcessQuestions AskProcess(ptrace::ProgramBuilder& program);
absl::Status TakeAnswers(const ProcessQuestions& questions, const ptrace::ProgramResult& result, CaptureContext& context);

// Ids, cwd, root, limits, umask, personality, oom score.
absl::Status CaptureProcess(CaptureContext& context);

}  // namespace moult::engine

#endif  // MOULT_RESOURCE_PROCESS_CAPTURE_H_
