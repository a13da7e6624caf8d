// SPDX-License-Identifier: Apache-2.0
#include "proc/auxv.h"

#include <elf.h>

#include <cstring>

#include "proc/text.h"

namespace moult::proc {

absl::StatusOr<std::vector<AuxvEntry>> ParseAuxv(std::string_view bytes) {
  std::vector<AuxvEntry> auxv;
  for (; bytes.size() >= sizeof(Elf64_auxv_t); bytes.remove_prefix(sizeof(Elf64_auxv_t))) {
    Elf64_auxv_t raw;
    std::memcpy(&raw, bytes.data(), sizeof(raw));
    if (raw.a_type == AT_NULL) return auxv;
    auxv.push_back({.type = raw.a_type, .value = raw.a_un.a_val});
  }
  return Incomplete("auxv", "no AT_NULL at the end");
}

std::optional<uint64_t> FindAuxv(const std::vector<AuxvEntry>& auxv, uint64_t type) {
  for (const AuxvEntry& entry : auxv) {
    if (entry.type == type) return entry.value;
  }
  return std::nullopt;
}

}  // namespace moult::proc
