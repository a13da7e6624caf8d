// SPDX-License-Identifier: Apache-2.0
//
// /proc/PID/pagemap: one little-endian u64 for each page (admin-guide/mm/pagemap.rst).
#ifndef MOULT_PROC_PAGEMAP_H_
#define MOULT_PROC_PAGEMAP_H_

#include <cstdint>

namespace moult::proc {

struct PagemapEntry {
  uint64_t pfn = 0;   // 0 without CAP_SYS_ADMIN, or when not present
  uint64_t swap = 0;  // type in bits 0-4, offset above; only when swapped
  bool present = false;
  bool swapped = false;
  bool file_or_shared = false;  // page of a file or shared anonymous; false: private to mappings
  bool guard = false;           // guard region, since 6.15 (bit 58)
  bool uffd_wp = false;         // write-protected through userfaultfd, since 5.13
  bool exclusive = false;       // mapped exactly once, since 4.2
  bool soft_dirty = false;      // always false without CONFIG_MEM_SOFT_DIRTY

  bool operator==(const PagemapEntry&) const = default;
};

constexpr PagemapEntry DecodePagemap(uint64_t raw) {
  constexpr uint64_t kLow55 = (1ull << 55) - 1;
  PagemapEntry entry;
  entry.present = (raw >> 63) & 1;
  entry.swapped = (raw >> 62) & 1;
  entry.file_or_shared = (raw >> 61) & 1;
  entry.guard = (raw >> 58) & 1;
  entry.uffd_wp = (raw >> 57) & 1;
  entry.exclusive = (raw >> 56) & 1;
  entry.soft_dirty = (raw >> 55) & 1;
  // The same bits are a frame number or a place in swap.
  if (entry.present) {
    entry.pfn = raw & kLow55;
  } else if (entry.swapped) {
    entry.swap = raw & kLow55;
  }
  return entry;
}

}  // namespace moult::proc

#endif  // MOULT_PROC_PAGEMAP_H_
