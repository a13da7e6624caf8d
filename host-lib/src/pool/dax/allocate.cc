// SPDX-License-Identifier: Apache-2.0
#include "pool/dax/allocate.h"

#include <algorithm>

namespace moult::host {

std::vector<DaxRun> FreeRuns(const DaxGeometry& geometry, const DaxDirectory& directory) {
  std::vector<DaxRun> used;
  for (const DaxEntry& entry : directory.entries)
    used.insert(used.end(), entry.runs.begin(), entry.runs.end());
  used.push_back({geometry.end_block(), 0});
  std::sort(used.begin(), used.end(), [](const DaxRun& a, const DaxRun& b) { return a.first < b.first; });
  std::vector<DaxRun> free;
  uint64_t at = geometry.first_block();
  for (const DaxRun& run : used) {
    if (run.first > at) free.push_back({at, run.first - at});
    at = run.first + run.count;
  }
  return free;
}

std::vector<DaxRun> WithoutHeld(const std::vector<DaxRun>& runs, const std::vector<DaxRange>& held,
                                uint64_t block) {
  std::vector<DaxRun> left;
  for (const DaxRun& run : runs) {
    uint64_t at = run.first;
    const uint64_t end = run.first + run.count;
    for (const DaxRange& one : held) {
      const uint64_t first = std::max(at, one.at / block);
      const uint64_t behind = std::min(end, (one.end() + block - 1) / block);
      if (first >= behind) continue;
      if (first > at) left.push_back({at, first - at});
      at = behind;
    }
    if (at < end) left.push_back({at, end - at});
  }
  return left;
}

uint64_t CountBlocks(const std::vector<DaxRun>& runs) {
  uint64_t count = 0;
  for (const DaxRun& run : runs) count += run.count;
  return count;
}

std::vector<DaxRun> ChooseRuns(std::vector<DaxRun> free, uint64_t count) {
  if (count == 0 || CountBlocks(free) < count) return {};
  std::stable_sort(free.begin(), free.end(),
                   [](const DaxRun& a, const DaxRun& b) { return a.count < b.count; });
  const auto whole =
      std::find_if(free.begin(), free.end(), [count](const DaxRun& run) { return run.count >= count; });
  if (whole != free.end()) return {{whole->first, count}};
  std::vector<DaxRun> chosen;
  for (auto run = free.rbegin(); count > 0; ++run) {
    chosen.push_back({run->first, std::min(run->count, count)});
    count -= chosen.back().count;
  }
  return chosen;
}

}  // namespace moult::host
