// SPDX-License-Identifier: Apache-2.0
#ifndef MOULT_RESOURCE_SECCOMP_RESTORE_H_
#define MOULT_RESOURCE_SECCOMP_RESTORE_H_

#include "moult/protocol/schema.h"
#include "ptrace/program_builder.h"

namespace moult::engine {

// Installs the thread's filters again, oldest first. The thread must be traced with PTRACE_O_SUSPEND_SECCOMP,
// else the first filter judges the calls that install the rest.
void PlanSeccomp(const image::ProcessT& process, const image::ThreadT& thread, ptrace::ProgramBuilder& program);

}  // namespace moult::engine

#endif  // MOULT_RESOURCE_SECCOMP_RESTORE_H_
