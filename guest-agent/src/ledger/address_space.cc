// SPDX-License-Identifier: Apache-2.0
#include "ledger/address_space.h"

#include <sys/sysmacros.h>

#include <algorithm>

#include "ledger/accesses.h"
#include "moult/base/page.h"
#include "proc/pagemap.h"

namespace moult::agent {
namespace {

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

absl::Status AddressSpaces::Add(pid_t pid, uint32_t index, const Accesses* accesses) {
  const std::string folder = absl::StrCat("/proc/", pid);
  MOULT_ASSIGN_OR_RETURN(const std::vector<MappedPart> parts, ReadMappedParts(folder, /*ask=*/true));
  if (parts.empty()) return absl::OkStatus();  // a thread of the kernel's, or a zombie
  MOULT_ASSIGN_OR_RETURN(PresentPages pages, PresentPages::Open(folder, source_));
  const size_t before = mappings_.size();
  for (const auto& [entry, empty, large] : parts) {
    if (empty || entry.path == "[vsyscall]") continue;
    const uint64_t device = makedev(entry.dev_major, entry.dev_minor);
    const uint32_t file = entry.inode == 0 ? 0 : FileNumber(device, entry.inode, entry.path);
    vmas_.push_back({index, entry.start, entry.offset, file, ProtOf(entry)});
    const auto add = [this, vma = static_cast<uint32_t>(vmas_.size() - 1)](uint64_t address, absl::Span<const uint64_t> entries) {
      return AddEntries(address, entries, vma);
    };
    MOULT_RETURN_IF_ERROR(pages.Read(entry.start, entry.end, large, add));
  }
  return accesses != nullptr ? accesses->Look(pid, absl::MakeSpan(mappings_).subspan(before)) : absl::OkStatus();
}

absl::Status AddressSpaces::AddEntries(uint64_t address, absl::Span<const uint64_t> entries, uint32_t vma) {
  for (size_t i = 0; i < entries.size(); ++i) {
    if (entries[i] >> 63 == 0) continue;
    const proc::PagemapEntry entry = proc::DecodePagemap(entries[i]);
    if (entry.pfn == 0)
      return absl::PermissionDeniedError("the kernel hides frame numbers; run with CAP_SYS_ADMIN");
    mappings_.push_back({entry.pfn, address + i * kPage, vma, entry.file_or_shared});
  }
  return absl::OkStatus();
}

void AddressSpaces::Sort() {
  std::sort(mappings_.begin(), mappings_.end(), [](const Mapping& a, const Mapping& b) {
    return std::tie(a.frame, a.vma, a.va) < std::tie(b.frame, b.vma, b.va);
  });
}

}  // namespace moult::agent
