// SPDX-License-Identifier: Apache-2.0
#ifndef MOULT_RESOURCE_SIGNAL_RESTORE_H_
#define MOULT_RESOURCE_SIGNAL_RESTORE_H_

#include <sys/types.h>

#include <memory>
#include <vector>

#include "moult/protocol/schema.h"
#include "ptrace/program_builder.h"

namespace moult::engine {

void PlanActions(const image::ProcessT& process, ptrace::ProgramBuilder& program);

// Queues the signals again, from the thread to itself (the only way to keep every siginfo): for the whole
// process when `tid` is 0, which only the leader can do.
void PlanPending(pid_t pid, pid_t tid, const std::vector<std::unique_ptr<image::PendingSignalT>>& pending,
                 ptrace::ProgramBuilder& program);

}  // namespace moult::engine

#endif  // MOULT_RESOURCE_SIGNAL_RESTORE_H_
