// SPDX-License-Identifier: Apache-2.0
#ifndef MOULT_RESOURCE_THREAD_RESTORE_H_
#define MOULT_RESOURCE_THREAD_RESTORE_H_

#include "moult/protocol/schema.h"
#include "ptrace/program_builder.h"

namespace moult::engine {

// Name, alternate stack, robust list, rseq, tid address: what a thread sets for itself.
void PlanThreadState(const image::ThreadT& thread, ptrace::ProgramBuilder& program);

// Last of all: credentials, then the parent-death signal, which a change of credentials clears.
void PlanCredentialsAndDeathSignal(const image::ThreadT& thread, const image::CredentialsT& current,
                                   ptrace::ProgramBuilder& program);

}  // namespace moult::engine

#endif  // MOULT_RESOURCE_THREAD_RESTORE_H_
