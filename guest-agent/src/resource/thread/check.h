// SPDX-License-Identifier: Apache-2.0
//
// Threads that cannot be captured, each refused by name.
#ifndef MOULT_RESOURCE_THREAD_CHECK_H_
#define MOULT_RESOURCE_THREAD_CHECK_H_

#include "image/capture_context.h"

namespace moult::engine {

// Those that share less than everything with the leader: descriptors, cwd, memory, namespaces.
absl::Status CheckThreadSharesAll(pid_t pid, pid_t tid);
absl::Status CheckThreadsShareAll(const CaptureContext& context);

// Those in which no program of ours can run: 32-bit code, system calls that do not reach the kernel.
absl::Status CheckThreadModes(const CaptureContext& context);

}  // namespace moult::engine

#endif  // MOULT_RESOURCE_THREAD_CHECK_H_
