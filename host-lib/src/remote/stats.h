// SPDX-License-Identifier: Apache-2.0
#ifndef MOULT_HOST_REMOTE_STATS_H_
#define MOULT_HOST_REMOTE_STATS_H_

#include <array>
#include <cstdint>

namespace moult::host {

// All since the beginning.
struct RemoteStats {
  uint64_t faults = 0;            // that were served
  uint64_t hits = 0;              // of these, what the host had
  uint64_t hit_bytes = 0;         // mapped without a read of the pool
  uint64_t fetched_bytes = 0;     // by faults, with the rest of their chunks, and for the library's own reads
  uint64_t prefetched_bytes = 0;  // read before anybody asked for it
  uint64_t unkept_bytes = 0;      // fetched, for which the cache had no room
  uint64_t lost_slots = 0;        // whose pool did not give a page
  uint64_t prefetch_failures = 0;
  // Faults by the time from the message to the page: [i] counts those under 2^i us and not under 2^(i-1); the
  // last everything above.
  std::array<uint64_t, 24> fault_us{};
};

}  // namespace moult::host

#endif  // MOULT_HOST_REMOTE_STATS_H_
