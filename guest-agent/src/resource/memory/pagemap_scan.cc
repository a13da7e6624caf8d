// SPDX-License-Identifier: Apache-2.0
#include "resource/memory/pagemap_scan.h"

#include <sys/ioctl.h>

#include <cerrno>

#include "absl/strings/str_format.h"

namespace moult::engine {
namespace {

// include/uapi/linux/fs.h of Linux 6.7.
struct PmScanArg {
  uint64_t size = sizeof(PmScanArg);
  uint64_t flags = 0;
  uint64_t start = 0;
  uint64_t end = 0;
  uint64_t walk_end = 0;
  uint64_t vec = 0;
  uint64_t vec_len = 0;
  uint64_t max_pages = 0;
  uint64_t category_inverted = 0;
  uint64_t category_mask = 0;
  uint64_t category_anyof_mask = 0;
  uint64_t return_mask = 0;
};
struct PageRegion {
  uint64_t start;
  uint64_t end;
  uint64_t categories;
};
constexpr unsigned long kPagemapScan = _IOWR('f', 16, PmScanArg);
constexpr size_t kRegions = 512;

}  // namespace

void AppendRange(std::vector<AddressRange>& ranges, size_t first, uint64_t start, uint64_t end) {
  if (ranges.size() > first && ranges.back().start + ranges.back().length == start) {
    ranges.back().length += end - start;
  } else {
    ranges.push_back({start, end - start});
  }
}

bool CanScan(int pagemap, uint64_t categories) {
  PmScanArg probe;
  probe.return_mask = categories;
  return ioctl(pagemap, kPagemapScan, &probe) >= 0;
}

absl::StatusOr<std::vector<AddressRange>> ScanPagemap(int pagemap, uint64_t start, uint64_t end, const PageFilter& filter) {
  std::vector<AddressRange> ranges;
  PageRegion regions[kRegions];
  PmScanArg arg;
  arg.start = start;
  arg.end = end;
  arg.vec = reinterpret_cast<uint64_t>(regions);
  arg.vec_len = kRegions;
  arg.category_inverted = filter.without;
  arg.category_mask = filter.with | filter.without;
  arg.category_anyof_mask = filter.any;
  // The same in all that match, so that neighbours merge whatever else they are.
  arg.return_mask = arg.category_mask;
  while (arg.start < arg.end) {
    const int n = ioctl(pagemap, kPagemapScan, &arg);
    if (n < 0) return ErrnoStatus(absl::StrFormat("scan the pages of %#x..%#x", arg.start, arg.end));
    for (int i = 0; i < n; ++i) AppendRange(ranges, 0, regions[i].start, regions[i].end);
    if (arg.walk_end <= arg.start) break;
    arg.start = arg.walk_end;
  }
  return ranges;
}

}  // namespace moult::engine
