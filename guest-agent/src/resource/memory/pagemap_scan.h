// SPDX-License-Identifier: Apache-2.0
//
// PAGEMAP_SCAN (admin-guide/mm/pagemap.rst), since Linux 6.7: which pages of an address space pass a filter, at the
// cost of a walk over the page tables that exist.
#ifndef MOULT_RESOURCE_MEMORY_PAGEMAP_SCAN_H_
#define MOULT_RESOURCE_MEMORY_PAGEMAP_SCAN_H_

#include <cstddef>
#include <cstdint>
#include <vector>

#include "image/page_sink.h"
#include "moult/base/status.h"

namespace moult::engine {

// include/uapi/linux/fs.h; Debian 12's headers are older.
enum PageCategory : uint64_t {
  kIsFile = 1 << 2,
  kIsPresent = 1 << 3,
  kIsSwapped = 1 << 4,
  kIsZeroPage = 1 << 5,
  kIsGuard = 1 << 8,  // since 6.15
};

// Of PageCategory bits: what a page has all of, none of, and one of at least.
struct PageFilter {
  uint64_t with = 0;
  uint64_t without = 0;
  uint64_t any = 0;
};

// Whether the kernel can scan for `categories`; `pagemap` is an open /proc/PID/pagemap.
bool CanScan(int pagemap, uint64_t categories);

// Ranges of pages that pass `filter` in [start, end), rising and disjoint, across mappings. Those of a VM_PFNMAP mapping are
// never among them.
absl::StatusOr<std::vector<AddressRange>> ScanPagemap(int pagemap, uint64_t start, uint64_t end, const PageFilter& filter);

// Adds a range, as part of the last one where it continues that; not of one before `first`.
void AppendRange(std::vector<AddressRange>& ranges, size_t first, uint64_t start, uint64_t end);

}  // namespace moult::engine

#endif  // MOULT_RESOURCE_MEMORY_PAGEMAP_SCAN_H_
