// SPDX-License-Identifier: Apache-2.0
//
// Which pages of a process are its own: anonymous memory, copied-on-write pages of private file mappings, and template
// pages that stand for such.
#ifndef MOULT_RESOURCE_MEMORY_PAGE_SCAN_H_
#define MOULT_RESOURCE_MEMORY_PAGE_SCAN_H_

#include <sys/types.h>

#include <cstdint>
#include <vector>

#include "image/page_stage.h"
#include "moult/base/status.h"
#include "moult/base/unique_fd.h"
#include "proc/maps.h"
#include "proc/pagemap.h"

namespace moult::engine {

class PageScan {
 public:
  static absl::StatusOr<PageScan> Open(pid_t pid);

  // Ranges of pages that are private to the process and present or swapped; the shared zero page is not among
  // them. Rising and disjoint, each inside one mapping of `layout`. PAGEMAP_SCAN where the kernel has it (6.7),
  // in one walk over the whole address space; else /proc/PID/pagemap.
  absl::StatusOr<std::vector<AddressRange>> Private(const std::vector<proc::SmapsEntry>& layout) const;
  // Whether the kernel has PAGEMAP_SCAN.
  bool fast() const { return has_scan_; }
  // Ranges with MADV_GUARD_INSTALL in force, likewise; kernels before 6.15 do not tell (they show none).
  absl::StatusOr<std::vector<AddressRange>> Guards(const std::vector<proc::SmapsEntry>& layout) const;

 private:
  PageScan(UniqueFd fd, bool has_scan, bool has_guards, std::vector<AddressRange> windows)
      : fd_(std::move(fd)), has_scan_(has_scan), has_guards_(has_guards), windows_(std::move(windows)) {}
  bool InWindow(const proc::PagemapEntry& entry) const;
  template <typename Wanted>
  absl::Status ReadPagemap(const proc::SmapsEntry& vma, const Wanted& wanted, std::vector<AddressRange>& ranges) const;

  UniqueFd fd_;
  bool has_scan_;
  bool has_guards_;  // PAGE_IS_GUARD, since 6.15
  std::vector<AddressRange> windows_;  // of the driver, in page frames
};

}  // namespace moult::engine

#endif  // MOULT_RESOURCE_MEMORY_PAGE_SCAN_H_
