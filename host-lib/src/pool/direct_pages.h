// SPDX-License-Identifier: Apache-2.0
//
// Pages of a template that lie in memory of this host, where they are mapped from: never copied, never
// fetched.
#ifndef MOULT_HOST_POOL_DIRECT_PAGES_H_
#define MOULT_HOST_POOL_DIRECT_PAGES_H_

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "moult/protocol/digest.h"

namespace moult::host {

// Safe for several threads.
class DirectPages {
 public:
  using Clock = std::chrono::steady_clock;

  virtual ~DirectPages() = default;
  virtual uint64_t size() const = 0;
  // Of one that is the same, all that was found out of its template holds.
  virtual const std::string& identity() const = 0;
  // Maps them over [at, at + room), which is the caller's, as far as they go. They stay as they are for as
  // long as they are mapped, with or without this object. On an error there may be a hole.
  virtual absl::Status MapOver(std::byte* at, uint64_t room) const = 0;
  // Whether who writes to such a mapping gets a copy of his own. Else it is read-only, and he gets a SIGSEGV.
  virtual bool writable() const = 0;
  // Holds all of them against `leaves`; once for a template and process.
  // Blocks. kDataLoss; kDeadlineExceeded.
  virtual absl::Status Verify(const image::PageLeaves& leaves, Clock::time_point deadline) const = 0;
  // kOutOfRange: past the end.
  virtual absl::Status Read(uint64_t offset, absl::Span<std::byte> to) const = 0;
};

}  // namespace moult::host

#endif  // MOULT_HOST_POOL_DIRECT_PAGES_H_
