// SPDX-License-Identifier: Apache-2.0
#ifndef MOULT_RESOURCE_PROCESS_RESTORE_H_
#define MOULT_RESOURCE_PROCESS_RESTORE_H_

#include "image/plan.h"
#include "image/restore_context.h"

namespace moult::engine {

// mm- and process-wide settings that the process makes itself, before it has other threads.
void PlanProcess(const image::ProcessT& process, const Starting& starting, ptrace::ProgramBuilder& program);
void PlanLimits(const image::ProcessT& process, const Starting& starting, ptrace::ProgramBuilder& program);

// In the builder: session, process group, umask, oom score, core dump filter.
absl::Status RestoreIds(const image::ProcessT& process);
// In the builder, after everything that opens files: root and working directory.
absl::Status RestoreDirectories(RestoreContext& context);

}  // namespace moult::engine

#endif  // MOULT_RESOURCE_PROCESS_RESTORE_H_
