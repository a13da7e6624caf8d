// SPDX-License-Identifier: Apache-2.0
#include "rpc/iomem.h"

#include <algorithm>

#include "proc/read.h"
#include "proc/text.h"

namespace moult::agent {

std::vector<RamRange> ParseSystemRam(std::string_view iomem) {
  std::vector<RamRange> ranges;
  proc::Lines lines(iomem);
  for (std::string_view line; lines.Next(&line);) {
    proc::Scanner scanner(line);
    RamRange range{};
    uint64_t last = 0;
    if (line.empty() || line.front() == ' ') continue;  // part of the one above
    if (!scanner.Hex(&range.start) || !scanner.Literal('-') || !scanner.Hex(&last) ||
        !scanner.Literal(" : System RAM"))
      continue;
    range.end = last + 1;
    if (scanner.AtEnd() && last > range.start) ranges.push_back(range);
  }
  std::sort(ranges.begin(), ranges.end(),
            [](const RamRange& a, const RamRange& b) { return a.start < b.start; });
  return ranges;
}

std::vector<RamRange> ReadSystemRam() {
  auto text = proc::ReadFile("/proc/iomem");
  return text.ok() ? ParseSystemRam(*text) : std::vector<RamRange>{};
}

uint64_t RamBytes() {
  uint64_t sum = 0;
  for (const RamRange& range : ReadSystemRam()) sum += range.end - range.start;
  return sum;
}

}  // namespace moult::agent
