// SPDX-License-Identifier: Apache-2.0
#include "rpc/iomem.h"

#include <algorithm>

#include "proc/read.h"
#include "proc/text.h"

namespace moult::agent {

namespace {

// A line "  start-last : name".
bool ParseLine(std::string_view line, RamRange* range, std::string_view* name) {
  proc::Scanner scanner(line);
  uint64_t last = 0;
  if (!scanner.Hex(&range->start) || !scanner.Literal('-') || !scanner.Hex(&last) || !scanner.Literal(" : ")) return false;
  range->end = last + 1;
  *name = scanner.rest();
  return last > range->start;
}

template <typename Wanted>
std::vector<RamRange> Parse(std::string_view iomem, Wanted wanted) {
  std::vector<RamRange> ranges;
  proc::Lines lines(iomem);
  for (std::string_view line; lines.Next(&line);) {
    RamRange range{};
    std::string_view name;
    if (!line.empty() && ParseLine(line, &range, &name) && wanted(line.front() == ' ', name)) ranges.push_back(range);
  }
  std::sort(ranges.begin(), ranges.end(),
            [](const RamRange& a, const RamRange& b) { return a.start < b.start; });
  return ranges;
}

}  // namespace

std::vector<RamRange> ParseSystemRam(std::string_view iomem) {
  return Parse(iomem, [](bool part, std::string_view name) { return !part && name == "System RAM"; });
}

std::vector<RamRange> ParseKernelImage(std::string_view iomem) {
  return Parse(iomem, [](bool part, std::string_view name) { return part && name.starts_with("Kernel "); });
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
