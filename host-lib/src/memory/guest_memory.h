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
#include "moult/base/page.h"
#include "moult/base/unique_fd.h"

namespace moult::host {

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

  // How much of [gpa, gpa + length) lies in the region of `gpa`; all of it when that is in none.
  uint64_t LengthWithin(GuestPhys gpa, uint64_t length) const;

  // The way back, for addresses that the kernel tells. kOutOfRange: in no region.
  absl::StatusOr<GuestPhys> GuestOf(const std::byte* host) const;

  struct Extent {
    GuestRange range;
    bool shared;  // of a file that is mapped shared; else private anonymous memory
  };
  // Rising by guest address.
  std::vector<Extent> Extents() const;

  // Copies whole pages out while the guest may write them. Of a file it is read past the mapping, so holes in
  // it stay holes and no userfaultfd sees an access.
  absl::Status Read(GuestRange range, std::byte* to) const;

  // Gives whole pages back to the host; they read as zero from then on. `range` as for Translate. Discard
  // overwrites them with zeros where the host refuses, and *zeroed grows by their bytes; Release fails.
  absl::Status Discard(GuestRange range, uint64_t* zeroed) const;
  absl::Status Release(GuestRange range) const;

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
  const Region* RegionOf(GuestPhys gpa) const;  // null: none
  absl::StatusOr<const Region*> Find(GuestRange range) const;
  absl::StatusOr<const Region*> FindPages(GuestRange range) const;  // whole pages, at least one

  std::vector<Region> regions_;  // rising by guest address
  uint64_t size_ = 0;
};

}  // namespace moult::host

#endif  // MOULT_HOST_MEMORY_GUEST_MEMORY_H_
