// SPDX-License-Identifier: Apache-2.0
#include "memory/guest_memory.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/str_format.h"
#include "memory/mapping_check.h"
#include "moult/base/status.h"

namespace moult::host {
namespace {

// Half-open intervals that do not wrap.
bool Intersect(uint64_t a, uint64_t a_length, uint64_t b, uint64_t b_length) {
  return a < b + b_length && b < a + a_length;
}

absl::Status CheckShape(const RegionConfig& region) {
  const uint64_t host = reinterpret_cast<uint64_t>(region.hva);
  if (region.hva == nullptr) return absl::InvalidArgumentError("hva is NULL");
  if (region.range.length == 0) return absl::InvalidArgumentError("length is 0");
  if ((region.range.first() | region.range.length | host) % kPage != 0) {
    return absl::InvalidArgumentError("gpa, hva or length is not page aligned");
  }
  if (region.range.length > UINT64_MAX - region.range.first() || region.range.length > UINT64_MAX - host) {
    return absl::InvalidArgumentError("wraps around");
  }
  return absl::OkStatus();
}

// Word by word, so that what another thread writes meanwhile is a value and no data race.
void CopyChanging(const std::byte* from, std::byte* to, uint64_t bytes) {
  // SAFETY: page-aligned memory of `bytes`, a multiple of the word.
  const auto* source = reinterpret_cast<const uint64_t*>(from);
  for (uint64_t i = 0; i < bytes / sizeof(uint64_t); ++i) {
    const uint64_t word = __atomic_load_n(source + i, __ATOMIC_RELAXED);
    std::memcpy(to + i * sizeof(word), &word, sizeof(word));
  }
}

}  // namespace

std::string GuestRange::Text() const {
  return absl::StrFormat("guest-physical %#x, %d bytes", first(), length);
}

absl::StatusOr<GuestMemory> GuestMemory::Create(absl::Span<const RegionConfig> regions) {
  GuestMemory memory;
  for (size_t i = 0; i < regions.size(); ++i) {
    const RegionConfig& region = regions[i];
    const std::string context = absl::StrFormat("region %d (%s)", i, region.range.Text());
    absl::Status status = CheckShape(region);
    if (status.ok() &&
        (memory.Overlaps(region.range) || memory.OverlapsHost(region.hva, region.range.length))) {
      status = absl::InvalidArgumentError("overlaps an earlier region");
    }
    if (status.ok()) status = CheckMapping(region);
    if (!status.ok()) return Annotate(status, context);
    UniqueFd fd;
    if (region.fd >= 0) {
      fd = UniqueFd(fcntl(region.fd, F_DUPFD_CLOEXEC, 3));
      if (!fd.valid()) return ErrnoStatus(absl::StrCat(context, ": dup"));
    }
    memory.regions_.push_back({region.range, region.hva, std::move(fd), region.fd_offset});
    memory.size_ += region.range.length;
  }
  std::sort(memory.regions_.begin(), memory.regions_.end(),
            [](const Region& a, const Region& b) { return a.range.first() < b.range.first(); });
  return memory;
}

const GuestMemory::Region* GuestMemory::RegionOf(GuestPhys gpa) const {
  const auto address = static_cast<uint64_t>(gpa);
  const auto next = std::upper_bound(regions_.begin(), regions_.end(), address, [](uint64_t at, const Region& region) {
    return at < region.range.first();
  });
  if (next == regions_.begin()) return nullptr;
  const Region& region = *std::prev(next);
  return address - region.range.first() < region.range.length ? &region : nullptr;
}

uint64_t GuestMemory::LengthWithin(GuestPhys gpa, uint64_t length) const {
  const Region* const region = RegionOf(gpa);
  if (region == nullptr) return length;
  return std::min(length, region->range.length - (static_cast<uint64_t>(gpa) - region->range.first()));
}

absl::StatusOr<const GuestMemory::Region*> GuestMemory::Find(GuestRange range) const {
  const Region* const region = RegionOf(GuestPhys(range.first()));
  if (region != nullptr && LengthWithin(GuestPhys(range.first()), range.length) == range.length) return region;
  return absl::OutOfRangeError(absl::StrCat(range.Text(), ": not inside one region of the guest's RAM"));
}

absl::StatusOr<absl::Span<std::byte>> GuestMemory::Translate(GuestRange range) const {
  MOULT_ASSIGN_OR_RETURN(const Region* region, Find(range));
  return absl::MakeSpan(region->hva + (range.first() - region->range.first()), range.length);
}

absl::StatusOr<GuestPhys> GuestMemory::GuestOf(const std::byte* host) const {
  for (const Region& region : regions_) {
    const uint64_t inside = reinterpret_cast<uint64_t>(host) - reinterpret_cast<uint64_t>(region.hva);
    if (host >= region.hva && inside < region.range.length) return GuestPhys(region.range.first() + inside);
  }
  return absl::OutOfRangeError(absl::StrFormat("host address %p: not in a region of the guest's RAM", host));
}

std::vector<GuestMemory::Extent> GuestMemory::Extents() const {
  std::vector<Extent> extents;
  for (const Region& region : regions_) extents.push_back({region.range, region.fd.valid()});
  return extents;
}

absl::StatusOr<const GuestMemory::Region*> GuestMemory::FindPages(GuestRange range) const {
  if ((range.first() | range.length) % kPage != 0 || range.length == 0) {
    return absl::InvalidArgumentError(absl::StrCat(range.Text(), ": not whole pages"));
  }
  return Find(range);
}

absl::Status GuestMemory::Read(GuestRange range, std::byte* to) const {
  MOULT_ASSIGN_OR_RETURN(const Region* region, FindPages(range));
  const uint64_t inside = range.first() - region->range.first();
  if (!region->fd.valid()) {
    CopyChanging(region->hva + inside, to, range.length);
    return absl::OkStatus();
  }
  for (uint64_t done = 0; done < range.length;) {
    const ssize_t n = pread(region->fd.get(), to + done, range.length - done,
                            static_cast<off_t>(region->fd_offset + inside + done));
    if (n > 0) {
      done += static_cast<uint64_t>(n);
    } else if (n == 0) {
      return absl::DataLossError(absl::StrCat("read ", range.Text(), ": the region's file was cut short"));
    } else if (errno != EINTR) {
      return ErrnoStatus(absl::StrCat("read ", range.Text()));
    }
  }
  return absl::OkStatus();
}

absl::Status GuestMemory::Release(GuestRange range) const {
  MOULT_ASSIGN_OR_RETURN(const Region* region, FindPages(range));
  const uint64_t inside = range.first() - region->range.first();
  int result;
  // SAFETY: [inside, inside + length) is within the region (Find), and so within its part of the file, and
  // whole pages: no other memory is reached.
  if (region->fd.valid()) {
    // MADV_DONTNEED would only drop our page tables' entries: the file keeps its pages.
    do {
      result = fallocate(region->fd.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                         static_cast<off_t>(region->fd_offset + inside), static_cast<off_t>(range.length));
    } while (result != 0 && errno == EINTR);
  } else {
    result = madvise(region->hva + inside, range.length, MADV_DONTNEED);
  }
  return result == 0 ? absl::OkStatus() : ErrnoStatus(absl::StrCat("give back ", range.Text()));
}

absl::Status GuestMemory::Discard(GuestRange range, uint64_t* zeroed) const {
  MOULT_ASSIGN_OR_RETURN(const Region* region, FindPages(range));
  if (Release(range).ok()) return absl::OkStatus();
  // Sealed, locked or pinned: then at least nothing of the content stays.
  // SAFETY: within the region (Find); it is mapped writable for as long as the vm is.
  std::memset(region->hva + (range.first() - region->range.first()), 0, range.length);
  *zeroed += range.length;
  return absl::OkStatus();
}

bool GuestMemory::Overlaps(GuestRange range) const {
  return std::any_of(regions_.begin(), regions_.end(), [&](const Region& region) {
    return Intersect(region.range.first(), region.range.length, range.first(), range.length);
  });
}

bool GuestMemory::OverlapsHost(const std::byte* hva, uint64_t length) const {
  return std::any_of(regions_.begin(), regions_.end(), [&](const Region& region) {
    return Intersect(reinterpret_cast<uint64_t>(region.hva), region.range.length,
                     reinterpret_cast<uint64_t>(hva), length);
  });
}

}  // namespace moult::host
