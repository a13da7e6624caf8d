// SPDX-License-Identifier: Apache-2.0
#include "pool/checked_slots.h"

#include <utility>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "absl/strings/str_cat.h"
#include "memory/guest_memory.h"

namespace moult::host {
namespace {

uint64_t Sum(const std::byte* page) { return XXH3_64bits(page, kPage); }

}  // namespace

CheckedSlots::CheckedSlots(std::string pool, uint64_t limit)
    : pool_(std::move(pool)), limit_(limit), slots_(limit / kPage) {}

absl::StatusOr<std::vector<SlotRun>> CheckedSlots::Take(absl::Span<const std::byte> pages, absl::Span<PoolSlot> slots) {
  std::vector<uint64_t> sums(slots.size());
  for (size_t i = 0; i < slots.size(); ++i) sums[i] = Sum(pages.data() + i * kPage);
  const std::lock_guard<std::mutex> lock(mutex_);
  std::vector<SlotRun> runs = slots_.Take(slots.size());
  if (runs.empty() && !slots.empty()) {
    return absl::ResourceExhaustedError(absl::StrCat(
        "pool ", pool_, " is full: ", slots.size() * kPage, " bytes do not fit, ", slots_.used() * kPage, " of ", limit_,
        " are in use or being given back; raise its limit, or end or recall functions"));
  }
  if (sums_.size() < slots_.top()) sums_.resize(slots_.top());
  size_t i = 0;
  for (const SlotRun& run : runs) {
    for (uint64_t slot = run.first; slot < run.first + run.count; ++slot, ++i) {
      slots[i] = PoolSlot(slot);
      sums_[slot] = sums[i];
    }
  }
  return runs;
}

void CheckedSlots::Give(absl::Span<const SlotRun> runs) {
  const std::lock_guard<std::mutex> lock(mutex_);
  for (const SlotRun& run : runs) slots_.Give(run);
}

absl::Status CheckedSlots::Check(absl::Span<const PoolSlot> slots, absl::Span<const std::byte> pages) const {
  std::vector<uint64_t> sums(slots.size());
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    for (size_t i = 0; i < slots.size(); ++i) sums[i] = sums_[static_cast<uint64_t>(slots[i])];
  }
  for (size_t i = 0; i < slots.size(); ++i) {
    if (Sum(pages.data() + i * kPage) == sums[i]) continue;
    return absl::DataLossError(absl::StrCat("pool ", pool_, ": slot ", static_cast<uint64_t>(slots[i]),
                                            " does not match its checksum; the medium is damaged, or something else "
                                            "writes there"));
  }
  return absl::OkStatus();
}

uint64_t CheckedSlots::used() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return slots_.used();
}

}  // namespace moult::host
