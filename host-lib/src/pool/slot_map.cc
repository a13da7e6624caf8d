// SPDX-License-Identifier: Apache-2.0
#include "pool/slot_map.h"

#include <algorithm>
#include <iterator>

namespace moult::host {

void Append(std::vector<SlotRun>* runs, uint64_t slot) {
  if (!runs->empty() && runs->back().first + runs->back().count == slot) {
    ++runs->back().count;
  } else {
    runs->push_back({slot, 1});
  }
}

std::vector<SlotRun> SlotMap::Take(uint64_t count) {
  std::vector<SlotRun> runs;
  if (count == 0 || count > limit_ - used_) return runs;
  used_ += count;
  // A run that holds all of it, before pieces: what is written together is read together.
  auto whole = std::find_if(free_.begin(), free_.end(), [&](const auto& run) { return run.second >= count; });
  const bool above = whole == free_.end() && limit_ - top_ >= count;
  for (auto next = whole != free_.end() ? whole : free_.begin();
       count > 0 && !above && next != free_.end();) {
    const auto [first, length] = *next;
    const uint64_t taken = std::min(count, length);
    runs.push_back({first, taken});
    next = free_.erase(next);
    if (taken < length) free_.emplace(first + taken, length - taken);
    count -= taken;
  }
  if (count > 0) {
    runs.push_back({top_, count});
    top_ += count;
  }
  return runs;
}

void SlotMap::Give(SlotRun run) {
  used_ -= run.count;
  auto next = free_.lower_bound(run.first);
  if (next != free_.end() && next->first == run.first + run.count) {
    run.count += next->second;
    next = free_.erase(next);
  }
  if (next != free_.begin()) {
    const auto before = std::prev(next);
    if (before->first + before->second == run.first) {
      before->second += run.count;
      run = {before->first, before->second};
      if (run.first + run.count == top_) {
        top_ = run.first;
        free_.erase(before);
      }
      return;
    }
  }
  if (run.first + run.count == top_) {
    top_ = run.first;
  } else {
    free_.emplace(run.first, run.count);
  }
}

}  // namespace moult::host
