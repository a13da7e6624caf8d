// SPDX-License-Identifier: Apache-2.0
//
// /proc/PID/auxv.
#ifndef MOULT_PROC_AUXV_H_
#define MOULT_PROC_AUXV_H_

#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace moult::proc {

struct AuxvEntry {
  uint64_t type = 0;  // AT_*
  uint64_t value = 0;

  bool operator==(const AuxvEntry&) const = default;
};

// `bytes` is an array of Elf64_auxv_t; the closing AT_NULL must be there and is not among the results.
absl::StatusOr<std::vector<AuxvEntry>> ParseAuxv(std::string_view bytes);

std::optional<uint64_t> FindAuxv(const std::vector<AuxvEntry>& auxv, uint64_t type);

}  // namespace moult::proc

#endif  // MOULT_PROC_AUXV_H_
