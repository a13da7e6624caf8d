// SPDX-License-Identifier: Apache-2.0
#ifndef MOULT_HOST_PAGER_STATS_H_
#define MOULT_HOST_PAGER_STATS_H_

#include <array>
#include <cstdint>

namespace moult::host {

struct PagerCounts {
  // What is now.
  uint64_t offloaded_bytes = 0;  // in the pool
  uint64_t zero_bytes = 0;       // out, and zero: no place in the pool
  uint64_t lost_pages = 0;       // wait for Resolve
  // Since the beginning.
  uint64_t faults = 0;            // that were served
  uint64_t fault_pages = 0;       // that faults brought in, neighbours among them
  uint64_t prefetched_pages = 0;  // that Recall and Populate brought in
  uint64_t zeroed_pages = 0;      // that the pool did not give, and that are zeros instead: Resolve, End
};

struct PagerStats {
  PagerCounts total;  // with owners that are gone
  uint64_t pool_used_bytes = 0;
  uint64_t pool_limit_bytes = 0;
  // Faults by the time from the message to the page: [i] counts those under 2^i us and not under 2^(i-1); the
  // last everything above. Faults that met a failure are not in it.
  std::array<uint64_t, 24> fault_us{};
};

struct OffloadResult {
  uint64_t moved_bytes = 0;    // to the pool
  uint64_t zero_bytes = 0;     // pages of zeros, dropped
  uint64_t stayed_bytes = 0;   // were touched meanwhile, or are busy with another call
  uint64_t already_bytes = 0;  // were out before
};

}  // namespace moult::host

#endif  // MOULT_HOST_PAGER_STATS_H_
