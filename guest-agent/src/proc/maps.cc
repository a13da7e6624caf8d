// SPDX-License-Identifier: Apache-2.0
#include "proc/maps.h"

#include "moult/base/status.h"
#include "proc/text.h"

namespace moult::proc {
namespace {

struct NamedFlag {
  char code[3];
  VmFlag flag;
};

constexpr NamedFlag kVmFlags[] = {
    {"rd", kVmRead},       {"wr", kVmWrite},       {"ex", kVmExec},        {"sh", kVmShared},
    {"mr", kVmMayRead},    {"mw", kVmMayWrite},    {"me", kVmMayExec},     {"ms", kVmMayShare},
    {"gd", kVmGrowsDown},  {"pf", kVmPfnMap},      {"dw", kVmDenyWrite},   {"lo", kVmLocked},
    {"io", kVmIo},         {"sr", kVmSeqRead},     {"rr", kVmRandRead},    {"dc", kVmDontCopy},
    {"de", kVmDontExpand}, {"lf", kVmLockOnFault}, {"ac", kVmAccount},     {"nr", kVmNoReserve},
    {"ht", kVmHugeTlb},    {"sf", kVmSync},        {"ar", kVmArch1},       {"wf", kVmWipeOnFork},
    {"dd", kVmDontDump},   {"sd", kVmSoftDirty},   {"mm", kVmMixedMap},    {"hg", kVmHugePage},
    {"nh", kVmNoHugePage}, {"mg", kVmMergeable},   {"um", kVmUffdMissing}, {"uw", kVmUffdWp},
    {"ui", kVmUffdMinor},  {"bt", kVmBti},         {"mt", kVmMte},         {"ss", kVmShadowStack},
    {"sl", kVmSealed},     {"dp", kVmDroppable},   {"gu", kVmMaybeGuard},  {"mp", kVmMpx},
    {"nl", kVmNonLinear},
};

struct SizeField {
  std::string_view key;
  uint64_t SmapsEntry::*field;
};

constexpr SizeField kSizes[] = {
    {"Rss", &SmapsEntry::rss},
    {"Pss", &SmapsEntry::pss},
    {"Shared_Clean", &SmapsEntry::shared_clean},
    {"Shared_Dirty", &SmapsEntry::shared_dirty},
    {"Private_Clean", &SmapsEntry::private_clean},
    {"Private_Dirty", &SmapsEntry::private_dirty},
    {"Referenced", &SmapsEntry::referenced},
    {"Anonymous", &SmapsEntry::anonymous},
    {"LazyFree", &SmapsEntry::lazy_free},
    {"AnonHugePages", &SmapsEntry::anon_huge_pages},
    {"Shared_Hugetlb", &SmapsEntry::shared_hugetlb},
    {"Private_Hugetlb", &SmapsEntry::private_hugetlb},
    {"Swap", &SmapsEntry::swap},
    {"Locked", &SmapsEntry::locked},
    {"KernelPageSize", &SmapsEntry::kernel_page_size},
    {"MMUPageSize", &SmapsEntry::mmu_page_size},
};

bool Permission(Scanner& scanner, char on, char off, bool* result) {
  char c;
  if (!scanner.Char(&c) || (c != on && c != off)) return false;
  *result = c == on;
  return true;
}

// "55d0a000-55d0c000 r--p 00000000 fe:00 247498                     /usr/bin/head"
bool ParseHeader(std::string_view line, MapsEntry& entry) {
  Scanner scanner(line);
  if (!(scanner.Hex(&entry.start) && scanner.Literal('-') && scanner.Hex(&entry.end) &&
        scanner.Literal(' ') && Permission(scanner, 'r', '-', &entry.read) &&
        Permission(scanner, 'w', '-', &entry.write) && Permission(scanner, 'x', '-', &entry.exec) &&
        Permission(scanner, 's', 'p', &entry.shared) && scanner.Literal(' ') && scanner.Hex(&entry.offset) &&
        scanner.Literal(' ') && scanner.Hex(&entry.dev_major) && scanner.Literal(':') &&
        scanner.Hex(&entry.dev_minor) && scanner.Literal(' ') && scanner.Dec(&entry.inode))) {
    return false;
  }
  if (entry.start >= entry.end) return false;
  if (!scanner.AtEnd() && !scanner.Literal(' ')) return false;
  scanner.Blanks();
  std::string_view path = scanner.rest();
  constexpr std::string_view kDeleted = " (deleted)";
  // Without an inode the name is the kernel's or the process's own ("[anon:x (deleted)]" ends in ']').
  if (entry.inode != 0 && path.ends_with(kDeleted)) {
    path.remove_suffix(kDeleted.size());
    entry.deleted = true;
  }
  if (entry.inode != 0 && path.find('\\') != std::string_view::npos) {
    entry.path = UnescapeOctal(path, '\n');
  } else {
    entry.path = path;
  }
  return true;
}

// "Key:   12 kB", "VmFlags: rd wr ", "ProtectionKey: 0". Keys that are not known are passed over.
bool ParseProperty(std::string_view key, std::string_view value, SmapsEntry& entry) {
  Scanner scanner(value);
  if (key == "VmFlags") {
    std::string_view code;
    while (scanner.Word(&code)) entry.vm_flags |= VmFlagBit(code);
    return true;
  }
  if (key == "ProtectionKey") return scanner.Dec(&entry.protection_key) && scanner.AtEnd();
  for (const SizeField& size : kSizes) {
    if (size.key != key) continue;
    uint64_t kib;
    if (!scanner.Dec(&kib) || !scanner.Literal(" kB") || !scanner.AtEnd()) return false;
    return !__builtin_mul_overflow(kib, uint64_t{1024}, &(entry.*size.field));
  }
  return true;
}

// Properties begin with a capital letter, headers with a lower-case hex digit.
bool IsProperty(std::string_view line) { return !line.empty() && line[0] >= 'A' && line[0] <= 'Z'; }

absl::Status CheckComplete(const SmapsEntry& entry, bool has_flags) {
  if (has_flags && entry.kernel_page_size != 0) return absl::OkStatus();
  return Incomplete("smaps", absl::StrFormat("mapping %x-%x has no %s line", entry.start, entry.end,
                                             has_flags ? "KernelPageSize" : "VmFlags"));
}

}  // namespace

uint64_t VmFlagBit(std::string_view code) {
  for (const NamedFlag& named : kVmFlags) {
    if (code == std::string_view(named.code, 2)) return named.flag;
  }
  return 0;
}

absl::StatusOr<std::vector<MapsEntry>> ParseMaps(std::string_view text) {
  std::vector<MapsEntry> entries;
  Lines lines(text);
  for (std::string_view line; lines.Next(&line);) {
    if (!ParseHeader(line, entries.emplace_back())) return Malformed("maps", lines.number(), line);
  }
  return entries;
}

absl::StatusOr<std::vector<SmapsEntry>> ParseSmaps(std::string_view text) {
  std::vector<SmapsEntry> entries;
  bool has_flags = false;
  Lines lines(text);
  for (std::string_view line; lines.Next(&line);) {
    if (!IsProperty(line)) {
      if (!entries.empty()) MOULT_RETURN_IF_ERROR(CheckComplete(entries.back(), has_flags));
      has_flags = false;
      if (!ParseHeader(line, entries.emplace_back())) return Malformed("smaps", lines.number(), line);
      continue;
    }
    std::string_view key;
    std::string_view value;
    if (entries.empty() || !SplitKey(line, &key, &value) || !ParseProperty(key, value, entries.back())) {
      return Malformed("smaps", lines.number(), line);
    }
    has_flags |= key == "VmFlags";
  }
  if (!entries.empty()) MOULT_RETURN_IF_ERROR(CheckComplete(entries.back(), has_flags));
  return entries;
}

}  // namespace moult::proc
