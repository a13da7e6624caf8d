// SPDX-License-Identifier: Apache-2.0
#ifndef MOULT_RESOURCE_TIMER_RESTORE_H_
#define MOULT_RESOURCE_TIMER_RESTORE_H_

#include "moult/base/status.h"
#include "moult/protocol/schema.h"
#include "ptrace/program_builder.h"

namespace moult::engine {

// After all threads exist: timers can name them.
absl::Status PlanTimers(const image::ProcessT& process, ptrace::ProgramBuilder& program);

}  // namespace moult::engine

#endif  // MOULT_RESOURCE_TIMER_RESTORE_H_
