// SPDX-License-Identifier: Apache-2.0
//
// System V semaphores, message queues and shared memory: not saved, so a process that uses them is refused.
// The kernel does not list the users of a semaphore or a queue; what it tells is who used each one last.
#ifndef MOULT_RESOURCE_SYSV_IPC_CAPTURE_H_
#define MOULT_RESOURCE_SYSV_IPC_CAPTURE_H_

#include "image/capture_context.h"
#include "ptrace/program_builder.h"

namespace moult::engine {

// What there is in the process's ipc namespace.
struct SysvIpcQuestions {
  size_t semaphores;  // struct seminfo
  size_t queues;      // struct msginfo
  size_t segments;    // struct shm_info
};
SysvIpcQuestions AskSysvIpc(ptrace::ProgramBuilder& program);
// Refuses when its sandbox holds any object, or, outside of one, an object was last used by this process.
absl::Status CheckSysvIpc(const SysvIpcQuestions& questions, const ptrace::ProgramResult& result,
                          const CaptureContext& context);

// Refuses a thread that waits for a semaphore or a queue.
absl::Status CheckSysvWaiters(const CaptureContext& context);

}  // namespace moult::engine

#endif  // MOULT_RESOURCE_SYSV_IPC_CAPTURE_H_
