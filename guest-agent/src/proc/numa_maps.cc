// SPDX-License-Identifier: Apache-2.0
#include "proc/numa_maps.h"

#include <cstdint>

#include "proc/text.h"

namespace moult::proc {

absl::StatusOr<std::set<std::string>> ParseNumaPolicies(std::string_view text) {
  std::set<std::string> policies;
  Lines lines(text);
  for (std::string_view line; lines.Next(&line);) {
    // "7f2fdf8a6000 default anon=1 dirty=1 N0=1 kernelpagesize_kB=4"
    Scanner scanner(line);
    uint64_t start;
    std::string_view policy;
    if (!scanner.Hex(&start) || !scanner.Literal(' ') || !scanner.Word(&policy)) return Malformed("numa_maps", lines.number(), line);
    policies.emplace(policy);
  }
  return policies;
}

}  // namespace moult::proc
