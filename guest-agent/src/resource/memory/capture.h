// SPDX-License-Identifier: Apache-2.0
#ifndef MOULT_RESOURCE_MEMORY_CAPTURE_H_
#define MOULT_RESOURCE_MEMORY_CAPTURE_H_

#include <vector>

#include "image/capture_context.h"
#include "proc/maps.h"

namespace moult::engine {

// The address space's layout as the kernel shows it, with the vsyscall page left out.
absl::StatusOr<std::vector<proc::SmapsEntry>> ReadLayout(pid_t pid);

// Where nothing is mapped and nothing is near: for mappings that must not merge with the process's own.
absl::StatusOr<ptrace::RemotePtr> FindHole(const std::vector<proc::SmapsEntry>& layout, uint64_t size);

// Begins to copy the private pages.
absl::Status CapturePages(CaptureContext& context, const std::vector<proc::SmapsEntry>& layout);

// Fills process.memory but for what only the process itself can tell (brk), and the runs of pages.
absl::Status CaptureMemory(CaptureContext& context, const std::vector<proc::SmapsEntry>& layout);

}  // namespace moult::engine

#endif  // MOULT_RESOURCE_MEMORY_CAPTURE_H_
