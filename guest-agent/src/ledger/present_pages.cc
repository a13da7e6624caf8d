// SPDX-License-Identifier: Apache-2.0
#include "ledger/present_pages.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "moult/base/page.h"
#include "proc/read.h"
#include "resource/memory/pagemap_scan.h"

namespace moult::agent {
namespace {

constexpr size_t kEntries = 32768;  // of pagemap at a time
constexpr uint64_t kLargeMapping = 64ull << 20;
constexpr uint64_t kAbsentRead = 64;  // pages that are absent: reading their entries costs less than another call

}  // namespace

absl::StatusOr<std::vector<MappedPart>> ReadMappedParts(const std::string& folder, bool ask) {
  std::vector<MappedPart> parts;
  MOULT_ASSIGN_OR_RETURN(const std::string text, proc::ReadFile(folder + "/maps"));
  MOULT_ASSIGN_OR_RETURN(std::vector<proc::MapsEntry> maps, proc::ParseMaps(text));
  const auto is_large = [](const proc::MapsEntry& entry) { return entry.end - entry.start >= kLargeMapping; };
  if (!ask || !std::any_of(maps.begin(), maps.end(), is_large)) {
    for (proc::MapsEntry& entry : maps) parts.push_back({entry, /*empty=*/false, is_large(entry)});
    return parts;
  }
  MOULT_ASSIGN_OR_RETURN(const std::string details, proc::ReadFile(folder + "/smaps"));
  MOULT_ASSIGN_OR_RETURN(const std::vector<proc::SmapsEntry> smaps, proc::ParseSmaps(details));
  for (const proc::SmapsEntry& entry : smaps) {
    // Template pages do not count as resident.
    const bool may_hold = entry.rss != 0 || entry.Has(proc::kVmMixedMap) || entry.Has(proc::kVmPfnMap) ||
                          entry.shared_hugetlb != 0 || entry.private_hugetlb != 0;
    parts.push_back({entry, !may_hold, is_large(entry) && !entry.Has(proc::kVmPfnMap)});
  }
  return parts;
}

absl::StatusOr<PresentPages> PresentPages::Open(const std::string& folder, Source source) {
  std::string path = folder + "/pagemap";
  UniqueFd pagemap(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!pagemap.valid()) return ErrnoStatus(absl::StrCat("open ", path));
  const bool scans = source == Source::kBest && engine::CanScan(pagemap.get(), engine::kIsPresent);
  return PresentPages(std::move(pagemap), std::move(path), scans);
}

absl::Status PresentPages::Read(uint64_t start, uint64_t end, bool large, Entries each) {
  if (!large || !scans_) return ReadAll(start, end, each);
  MOULT_ASSIGN_OR_RETURN(const std::vector<engine::AddressRange> present,
                         engine::ScanPagemap(pagemap_.get(), start, end, {.with = engine::kIsPresent}));
  for (size_t i = 0; i < present.size();) {
    const uint64_t first = present[i].start;
    uint64_t last = first;
    do {
      last = present[i].start + present[i].length;
      ++i;
    } while (i < present.size() && present[i].start - last <= kAbsentRead * kPage);
    MOULT_RETURN_IF_ERROR(ReadAll(first, last, each));
  }
  return absl::OkStatus();
}

absl::Status PresentPages::ReadAll(uint64_t start, uint64_t end, Entries each) {
  raw_.resize(kEntries);
  for (uint64_t at = start; at < end;) {
    const size_t count = std::min<uint64_t>(kEntries, (end - at) / kPage);
    const ssize_t n = pread(pagemap_.get(), raw_.data(), count * sizeof(uint64_t),
                            static_cast<off_t>(at / kPage * sizeof(uint64_t)));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return ErrnoStatus(absl::StrCat("read ", path_));
    if (n == 0) return absl::OkStatus();
    const size_t got = static_cast<size_t>(n) / sizeof(uint64_t);
    MOULT_RETURN_IF_ERROR(each(at, absl::MakeConstSpan(raw_.data(), got)));
    at += got * kPage;
  }
  return absl::OkStatus();
}

}  // namespace moult::agent
