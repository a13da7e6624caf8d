// SPDX-License-Identifier: Apache-2.0
//
// The guest's RAM as this process has it mapped. The only place that turns a guest-physical address into a
// host one.
#ifndef MOULT_HOST_MEMORY_GUEST_MEMORY_H_
#define MOULT_HOST_MEMORY_GUEST_MEMORY_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "moult/base/unique_fd.h"

namespace moult::host {

inline constexpr uint64_t kPage = 4096;

// A guest-physical address; a number only here and in messages.
enum class GuestPhys : uint64_t {};

struct GuestRange {
  GuestPhys start;
  uint64_t length;  // bytes
  uint64_t first() const { return static_cast<uint64_t>(start); }
  std::string Text() const;
};

struct RegionConfig {
  GuestRange range;
  std::byte* hva = nullptr;
  int fd = -1;  // not taken over: a duplicate is kept
  uint64_t fd_offset = 0;
};

// Immutable after Create. Not the memory: the guest writes it at any time, so what is read is copied first
// and judged then.
class GuestMemory {
 public:
  // kInvalidArgument: unaligned, empty, wrapping or overlapping; the mapping at hva is not what the region
  // says. kFailedPrecondition: memory that cannot be given back to the host (see spec.md, README).
  static absl::StatusOr<GuestMemory> Create(absl::Span<const RegionConfig> regions);

  bool empty() const { return regions_.empty(); }
  uint64_t size() const { return size_; }

  // The host memory of a range that lies inside exactly one region; kOutOfRange otherwise.
  absl::StatusOr<absl::Span<std::byte>> Translate(GuestRange range) const;

  // The other way round: what a host address inside a region is to the guest. kOutOfRange: inside none.
  absl::StatusOr<GuestPhys> AddressOf(const std::byte* hva) const;
  // Of the regions, rising.
  std::vector<GuestRange> Ranges() const;

  // Gives whole pages back to the host; they read as zero from then on. `range` as for Translate. Where the
  // host refuses, they are overwritten with zeros, and *zeroed grows by their bytes.
  absl::Status Discard(GuestRange range, uint64_t* zeroed) const;

  // Does [first, first + length) touch a region, by guest or by host address?
  bool Overlaps(GuestRange range) const;
  bool OverlapsHost(const std::byte* hva, uint64_t length) const;

 private:
  struct Region {
    GuestRange range;
    std::byte* hva;
    UniqueFd fd;
    uint64_t fd_offset;
  };
  absl::StatusOr<const Region*> Find(GuestRange range) const;

  std::vector<Region> regions_;  // rising by guest address
  uint64_t size_ = 0;
};

}  // namespace moult::host

#endif  // MOULT_HOST_MEMORY_GUEST_MEMORY_H_
