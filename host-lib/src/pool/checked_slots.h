// SPDX-License-Identifier: Apache-2.0
#ifndef MOULT_HOST_POOL_CHECKED_SLOTS_H_
#define MOULT_HOST_POOL_CHECKED_SLOTS_H_

#include <cstddef>
#include <cstdint>
#include <mutex>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "pool/page_pool.h"
#include "pool/slot_map.h"

namespace moult::host {

// The slots of a pool of pages, and what was put into each: a checksum (XXH3, 64 bits), 8 bytes a page, against a
// medium that errs, not against who can write to it. Safe for several threads.
class CheckedSlots {
 public:
  // `pool` for messages; `limit` in bytes.
  CheckedSlots(std::string pool, uint64_t limit);

  // Room for `pages`, whose checksums it keeps, in as few runs as there are. kResourceExhausted.
  absl::StatusOr<std::vector<SlotRun>> Take(absl::Span<const std::byte> pages, absl::Span<PoolSlot> slots);
  void Give(absl::Span<const SlotRun> runs);
  // kDataLoss: a page is not what Take was given for its slot.
  absl::Status Check(absl::Span<const PoolSlot> slots, absl::Span<const std::byte> pages) const;
  uint64_t used() const;  // slots

 private:
  const std::string pool_;
  const uint64_t limit_;
  mutable std::mutex mutex_;  // guards the rest
  SlotMap slots_;
  std::vector<uint64_t> sums_;
};

}  // namespace moult::host

#endif  // MOULT_HOST_POOL_CHECKED_SLOTS_H_
