// SPDX-License-Identifier: Apache-2.0
//
// Which pages of guest RAM are one function's alone: what a host may discard before the function is killed.
#ifndef MOULT_LEDGER_EXCLUSIVE_H_
#define MOULT_LEDGER_EXCLUSIVE_H_

#include <sys/types.h>

#include <cstdint>
#include <functional>
#include <vector>

#include "moult/base/status.h"
#include "proc/pagemap.h"
#include "rpc/iomem.h"

namespace moult::agent {

// A page frame as /proc/kpageflags and /proc/kpagecount show it (admin-guide/mm/pagemap.rst).
struct Frame {
  uint64_t number = 0;
  uint64_t flags = 0;
  uint64_t mapped = 0;  // how often it is mapped
};

// A private anonymous page that nobody else maps, in RAM: neither a window's nor a driver's. The zero page is not
// mapped exclusively; one that the kernel has merged (KSM) may be.
bool IsExclusiveAnonymous(const proc::PagemapEntry& entry, const std::vector<RamRange>& ram);
// A page of shmem (tmpfs, memfd, shared anonymous memory) in RAM. Who else uses it the flags do not tell.
bool IsShmem(const Frame& frame, const std::vector<RamRange>& ram);

struct FrameRun {
  uint64_t gpa;
  uint64_t length;
  bool operator==(const FrameRun&) const = default;
};
// Rising and disjoint, each frame once, neighbours put together.
std::vector<FrameRun> MergeFrames(std::vector<uint64_t> frames);
std::vector<FrameRun> MergeRuns(std::vector<FrameRun> runs);

// Finds, at each call anew, the shmem pages that only the sandbox whose init is `init_pid` has: of its private tmpfs,
// memfds, shared memory. From the first call on its processes must stand still (frozen). Needs CAP_SYS_ADMIN. The kernel
// may move a page after this was read (compaction): see hold.h.
std::function<absl::StatusOr<std::vector<FrameRun>>()> ExclusiveShmemFinder(pid_t init_pid);

// Fills these pages, and the processes' private anonymous ones, with zeros, by their addresses in the processes, where they
// are whatever the kernel does. For guests without the driver.
absl::Status WipeExclusive(pid_t init_pid);

}  // namespace moult::agent

#endif  // MOULT_LEDGER_EXCLUSIVE_H_
