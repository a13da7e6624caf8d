// SPDX-License-Identifier: Apache-2.0
#include "ledger/address_space.h"

#include <fcntl.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "moult/base/page.h"
#include "moult/base/unique_fd.h"
#include "proc/maps.h"
#include "proc/pagemap.h"
#include "proc/read.h"

namespace moult::agent {
namespace {

constexpr size_t kEntries = 32768;  // of pagemap at a time
constexpr uint64_t kLargeMapping = 64ull
                                   << 20;  // from here on it pays to ask whether there is anything in it

struct Part {
  proc::MapsEntry entry;
  bool empty = false;
};

// Runtimes reserve address space by the gigabyte, and pagemap has an entry for every page of it: so where
// there are large mappings smaps is asked which of them hold nothing. Template pages do not count as resident
// there.
absl::StatusOr<std::vector<Part>> ReadParts(pid_t pid) {
  const std::string folder = absl::StrCat("/proc/", pid);
  std::vector<Part> parts;
  MOULT_ASSIGN_OR_RETURN(const std::string text, proc::ReadFile(folder + "/maps"));
  MOULT_ASSIGN_OR_RETURN(std::vector<proc::MapsEntry> maps, proc::ParseMaps(text));
  const bool large = std::any_of(maps.begin(), maps.end(),
                                 [](const auto& entry) { return entry.end - entry.start >= kLargeMapping; });
  if (!large) {
    for (proc::MapsEntry& entry : maps) parts.push_back({std::move(entry), false});
    return parts;
  }
  MOULT_ASSIGN_OR_RETURN(const std::string details, proc::ReadFile(folder + "/smaps"));
  MOULT_ASSIGN_OR_RETURN(const std::vector<proc::SmapsEntry> smaps, proc::ParseSmaps(details));
  for (const proc::SmapsEntry& entry : smaps) {
    const bool may_hold = entry.rss != 0 || entry.Has(proc::kVmMixedMap) || entry.Has(proc::kVmPfnMap) ||
                          entry.shared_hugetlb != 0 || entry.private_hugetlb != 0;
    parts.push_back({entry, !may_hold});
  }
  return parts;
}

uint8_t ProtOf(const proc::MapsEntry& entry) {
  return static_cast<uint8_t>((entry.read ? 1 : 0) | (entry.write ? 2 : 0) | (entry.exec ? 4 : 0));
}

}  // namespace

uint32_t AddressSpaces::FileNumber(uint64_t device, uint64_t inode, const std::string& path) {
  const auto [known, added] = numbers_.try_emplace({device, inode, path}, 0);
  if (added) {
    files_.push_back(path);
    known->second = static_cast<uint32_t>(files_.size());
  }
  return known->second;
}

absl::Status AddressSpaces::Add(pid_t pid, uint32_t index) {
  MOULT_ASSIGN_OR_RETURN(const std::vector<Part> parts, ReadParts(pid));
  if (parts.empty()) return absl::OkStatus();  // a thread of the kernel's, or a zombie
  const std::string path = absl::StrCat("/proc/", pid, "/pagemap");
  const UniqueFd pagemap(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!pagemap.valid()) return ErrnoStatus(absl::StrCat("open ", path));
  for (const auto& [entry, empty] : parts) {
    if (empty || entry.path == "[vsyscall]") continue;
    const uint64_t device = makedev(entry.dev_major, entry.dev_minor);
    const uint32_t file = entry.inode == 0 ? 0 : FileNumber(device, entry.inode, entry.path);
    vmas_.push_back({index, entry.start, entry.offset, file, ProtOf(entry)});
    MOULT_RETURN_IF_ERROR(Annotate(
        AddPages(pagemap.get(), entry.start, entry.end, static_cast<uint32_t>(vmas_.size() - 1)), path));
  }
  return absl::OkStatus();
}

absl::Status AddressSpaces::AddPages(int pagemap, uint64_t start, uint64_t end, uint32_t vma) {
  raw_.resize(kEntries);
  for (uint64_t at = start; at < end;) {
    const size_t count = std::min<uint64_t>(kEntries, (end - at) / kPage);
    const ssize_t n = pread(pagemap, raw_.data(), count * sizeof(uint64_t),
                            static_cast<off_t>(at / kPage * sizeof(uint64_t)));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return ErrnoStatus("read");
    if (n == 0) return absl::OkStatus();  // its memory has gone meanwhile
    const size_t got = static_cast<size_t>(n) / sizeof(uint64_t);
    for (size_t i = 0; i < got; ++i) {
      if (raw_[i] >> 63 == 0) continue;
      const proc::PagemapEntry entry = proc::DecodePagemap(raw_[i]);
      if (entry.pfn == 0)
        return absl::PermissionDeniedError("the kernel hides frame numbers; run with CAP_SYS_ADMIN");
      mappings_.push_back({entry.pfn, at + i * kPage, vma, entry.file_or_shared});
    }
    at += got * kPage;
  }
  return absl::OkStatus();
}

void AddressSpaces::Sort() {
  std::sort(mappings_.begin(), mappings_.end(), [](const Mapping& a, const Mapping& b) {
    return std::tie(a.frame, a.vma, a.va) < std::tie(b.frame, b.vma, b.va);
  });
}

}  // namespace moult::agent
