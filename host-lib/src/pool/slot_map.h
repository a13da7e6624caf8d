// SPDX-License-Identifier: Apache-2.0
#ifndef MOULT_HOST_POOL_SLOT_MAP_H_
#define MOULT_HOST_POOL_SLOT_MAP_H_

#include <cstdint>
#include <map>
#include <vector>

namespace moult::host {

struct SlotRun {
  uint64_t first;
  uint64_t count;
};

// Adds a slot: to the last run where it follows that.
void Append(std::vector<SlotRun>* runs, uint64_t slot);

// Which of `limit` slots are free, as runs. Not thread-safe.
class SlotMap {
 public:
  explicit SlotMap(uint64_t limit) : limit_(limit) {}

  // `count` slots in as few runs as the free ones give, lowest first; empty where there are not so many.
  std::vector<SlotRun> Take(uint64_t count);
  void Give(SlotRun run);

  uint64_t used() const { return used_; }
  // One more than the highest slot that was ever taken.
  uint64_t top() const { return top_; }

 private:
  const uint64_t limit_;
  uint64_t used_ = 0;
  uint64_t top_ = 0;
  std::map<uint64_t, uint64_t> free_;  // below top_: first -> count, no two adjacent
};

}  // namespace moult::host

#endif  // MOULT_HOST_POOL_SLOT_MAP_H_
