// SPDX-License-Identifier: Apache-2.0
#include "resource/memory/page_scan.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>

#include "absl/strings/match.h"
#include "image/window.h"
#include "moult/base/page.h"
#include "resource/memory/pagemap_scan.h"

namespace moult::engine {
namespace {

// Pages that the driver attached are not anonymous to the kernel, and so they look like a file's. In a
// mapping of anonymous memory (not the kernel's own, such as [vdso]) there are no others.
bool HoldsWindowPages(const proc::SmapsEntry& vma) {
  const bool kernels = absl::StartsWith(vma.path, "[") && vma.path != "[heap]" && vma.path != "[stack]" &&
                       !absl::StartsWith(vma.path, "[anon:");
  return vma.inode == 0 && !vma.shared && !kernels && vma.rss > vma.anonymous;
}

// Where a private mapping of a file may show pages of a window; the kernel tells neither by counts nor by
// flags.
bool MayHoldWindowPages(const proc::SmapsEntry& vma) {
  return vma.inode != 0 && !vma.shared && vma.rss > vma.anonymous;
}

std::vector<AddressRange> WindowFrames() {
  std::vector<AddressRange> frames;
  const auto windows = ListWindows();
  if (!windows.ok()) return frames;  // no driver, no windows
  for (const moult_window& window : *windows) frames.push_back({window.gpa / kPage, window.length / kPage});
  return frames;
}

// Both rising and disjoint, also with each other.
std::vector<AddressRange> Merge(const std::vector<AddressRange>& a, const std::vector<AddressRange>& b) {
  std::vector<AddressRange> both;
  std::merge(a.begin(), a.end(), b.begin(), b.end(), std::back_inserter(both),
             [](const AddressRange& x, const AddressRange& y) { return x.start < y.start; });
  std::vector<AddressRange> ranges;
  for (const AddressRange& range : both) AppendRange(ranges, 0, range.start, range.start + range.length);
  return ranges;
}

std::vector<AddressRange> SplitAtMappings(const std::vector<AddressRange>& found,
                                          const std::vector<proc::SmapsEntry>& layout) {
  std::vector<AddressRange> ranges;
  auto vma = layout.begin();
  for (const AddressRange& range : found) {
    const uint64_t end = range.start + range.length;
    for (uint64_t at = range.start; at < end;) {
      while (vma != layout.end() && vma->end <= at) ++vma;
      if (vma == layout.end()) return ranges;
      const uint64_t from = std::max(at, vma->start);
      const uint64_t to = std::min(end, vma->end);
      if (from < to) ranges.push_back({from, to - from});
      at = std::max(to, vma->end);
    }
  }
  return ranges;
}

}  // namespace

absl::StatusOr<PageScan> PageScan::Open(pid_t pid) {
  const std::string path = absl::StrCat("/proc/", pid, "/pagemap");
  UniqueFd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd.valid()) return ErrnoStatus(absl::StrCat("open ", path));
  const bool has_scan = CanScan(fd.get(), kIsPresent);
  const bool has_guards = has_scan && CanScan(fd.get(), kIsGuard);
  return PageScan(std::move(fd), has_scan, has_guards, WindowFrames());
}

absl::StatusOr<std::vector<AddressRange>> PageScan::Private(
    const std::vector<proc::SmapsEntry>& layout) const {
  if (layout.empty()) return std::vector<AddressRange>();
  if (!has_scan_) {
    std::vector<AddressRange> ranges;
    for (const proc::SmapsEntry& vma : layout) {
      // Gigabytes of reserved address space hold nothing, and pagemap costs 8 bytes a page to learn so.
      if (vma.rss == 0 && vma.swap == 0 && !vma.Has(proc::kVmMixedMap)) continue;
      const bool holds_window_pages = HoldsWindowPages(vma);
      // The shared zero page looks private here; its content is dropped later like that of any zero page.
      const auto is_private = [&](const proc::PagemapEntry& entry) {
        if (entry.guard || !(entry.present || entry.swapped)) return false;
        return !entry.file_or_shared ||
               (entry.present && (holds_window_pages || (!vma.shared && InWindow(entry))));
      };
      MOULT_RETURN_IF_ERROR(ReadPagemap(vma, is_private, ranges));
    }
    return ranges;
  }
  const uint64_t start = layout.front().start, end = layout.back().end;
  // Guard markers are a kind of swap entry.
  const uint64_t without = kIsFile | kIsZeroPage | (has_guards_ ? uint64_t{kIsGuard} : 0);
  MOULT_ASSIGN_OR_RETURN(const auto found,
                         ScanPagemap(fd_.get(), start, end, {.without = without, .any = kIsPresent | kIsSwapped}));
  std::vector<AddressRange> attached;
  for (const proc::SmapsEntry& vma : layout) {
    if (!windows_.empty() && MayHoldWindowPages(vma)) {
      const auto in_window = [this](const proc::PagemapEntry& entry) { return InWindow(entry); };
      MOULT_RETURN_IF_ERROR(ReadPagemap(vma, in_window, attached));
    }
    if (!HoldsWindowPages(vma)) continue;
    MOULT_ASSIGN_OR_RETURN(const auto more,
                           ScanPagemap(fd_.get(), vma.start, vma.end, {.with = kIsFile | kIsPresent}));
    attached.insert(attached.end(), more.begin(), more.end());
  }
  return SplitAtMappings(attached.empty() ? found : Merge(found, attached), layout);
}

absl::StatusOr<std::vector<AddressRange>> PageScan::Guards(
    const std::vector<proc::SmapsEntry>& layout) const {
  if (!has_guards_ || layout.empty()) return std::vector<AddressRange>();
  MOULT_ASSIGN_OR_RETURN(const auto found,
                         ScanPagemap(fd_.get(), layout.front().start, layout.back().end, {.with = kIsGuard}));
  return SplitAtMappings(found, layout);
}

bool PageScan::InWindow(const proc::PagemapEntry& entry) const {
  return entry.present && std::any_of(windows_.begin(), windows_.end(), [&](const AddressRange& window) {
           return entry.pfn - window.start < window.length;
         });
}

template <typename Wanted>
absl::Status PageScan::ReadPagemap(const proc::SmapsEntry& vma, const Wanted& wanted,
                                   std::vector<AddressRange>& ranges) const {
  uint64_t entries[8192];
  const size_t first = ranges.size();
  for (uint64_t at = vma.start; at < vma.end;) {
    const uint64_t count = std::min<uint64_t>((vma.end - at) / kPage, std::size(entries));
    const ssize_t n = pread(fd_.get(), entries, count * sizeof(uint64_t),
                            static_cast<off_t>(at / kPage * sizeof(uint64_t)));
    if (n <= 0) return ErrnoStatus(n < 0 ? errno : EIO, absl::StrFormat("read pagemap at %#x", at));
    const uint64_t got = static_cast<uint64_t>(n) / sizeof(uint64_t);
    for (uint64_t i = 0; i < got; ++i) {
      if (entries[i] == 0) continue;  // a hole, as most of what runtimes reserve
      if (wanted(proc::DecodePagemap(entries[i])))
        AppendRange(ranges, first, at + i * kPage, at + (i + 1) * kPage);
    }
    at += got * kPage;
  }
  return absl::OkStatus();
}

}  // namespace moult::engine
