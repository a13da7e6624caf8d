// SPDX-License-Identifier: Apache-2.0
//
// What the kernel tells of page frames: /proc/kpageflags, kpagecount and kpagecgroup
// (admin-guide/mm/pagemap.rst).
#ifndef MOULT_LEDGER_FRAME_TABLE_H_
#define MOULT_LEDGER_FRAME_TABLE_H_

#include <cstdint>
#include <vector>

#include "moult/base/status.h"
#include "moult/base/unique_fd.h"

namespace moult::agent {

constexpr uint64_t Bit(int flag) { return uint64_t{1} << flag; }

struct FrameInfo {
  uint64_t flags = 0;   // bits KPF_*
  uint64_t mapped = 0;  // how often it is mapped
  uint64_t cgroup = 0;  // inode of the cgroup that pays for it; 0: none, or not known
};

// Whether the kernel has merged pages (KSM), or may do so. Where not, KPF_KSM means nothing: 6.12 shows every
// anonymous page so.
bool KernelMergesPages();

class FrameTable {
 public:
  // Needs CAP_SYS_ADMIN. kFailedPrecondition: this kernel has no such files (CONFIG_PROC_PAGE_MONITOR).
  // kpagecgroup may be absent (CONFIG_MEMCG).
  static absl::StatusOr<FrameTable> Open();

  // Frames [first, first + count). A frame without a struct page has KPF_NOPAGE.
  absl::Status Read(uint64_t first, size_t count, std::vector<FrameInfo>* frames);

 private:
  FrameTable() = default;
  UniqueFd flags_;
  UniqueFd counts_;
  UniqueFd cgroups_;
  std::vector<uint64_t> raw_;
};

}  // namespace moult::agent

#endif  // MOULT_LEDGER_FRAME_TABLE_H_
