// SPDX-License-Identifier: Apache-2.0
//
// What a `dax:` pool is written to: memory whose content stays, with stores that are durable once they were
// persisted. An interface, so that a test can cut it at any store.
#ifndef MOULT_HOST_POOL_DAX_MEDIUM_H_
#define MOULT_HOST_POOL_DAX_MEDIUM_H_

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"

namespace moult::host {

struct DaxRange {
  uint64_t at;
  uint64_t length;
  uint64_t end() const { return at + length; }
  bool operator==(const DaxRange&) const = default;
};

// One thread at a time. Locks and holds are those of this object, and go with it, or with its process.
class DaxMedium {
 public:
  using Clock = std::chrono::steady_clock;

  virtual ~DaxMedium() = default;
  // For messages.
  virtual const std::string& path() const = 0;
  // Mapped. Others may write to it meanwhile.
  virtual absl::Span<const std::byte> bytes() const = 0;
  // What offsets and lengths of mappings are multiples of.
  virtual uint64_t align() const = 0;

  // In memory at once; durable in any order, in units of 8 bytes, at any time up to the end of Persist.
  virtual void Store(uint64_t at, absl::Span<const std::byte> from) = 0;
  // Whole or not at all, for other processes too. `at` is a multiple of 8.
  virtual void StoreWord(uint64_t at, uint64_t value) = 0;
  // When it returns OK what was stored there is durable.
  virtual absl::Status Persist(DaxRange range) = 0;

  // One writer at a time, of all processes. kDeadlineExceeded: another one writes.
  virtual absl::Status LockForWriting(Clock::time_point deadline) = 0;
  // Says that somebody reads these ranges. Does not wait, whoever writes.
  virtual absl::Status Hold(absl::Span<const DaxRange> ranges) = 0;
  // Which parts of `range` are held, by whomever but this object. Rising.
  virtual absl::StatusOr<std::vector<DaxRange>> Held(DaxRange range) const = 0;
};

}  // namespace moult::host

#endif  // MOULT_HOST_POOL_DAX_MEDIUM_H_
