// SPDX-License-Identifier: Apache-2.0
#include "pool/dax/dax_pages.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "memory/mapping_error.h"
#include "moult/base/page.h"
#include "moult/base/status.h"
#include "moult/protocol/digest.h"
#include "moult/protocol/limits.h"

namespace moult::host {

bool DaxChecked::Has(const std::string& identity) const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return identities_.contains(identity);
}

void DaxChecked::Add(const std::string& identity) {
  constexpr size_t kMost = 4096;
  const std::lock_guard<std::mutex> lock(mutex_);
  if (identities_.size() >= kMost) identities_.clear();
  identities_.insert(identity);
}

DaxPages::DaxPages(std::unique_ptr<DaxDevice> device, const DaxGeometry& geometry, DaxEntry entry,
                   std::shared_ptr<DaxChecked> checked)
    : device_(std::move(device)),
      geometry_(geometry),
      entry_(std::move(entry)),
      checked_(std::move(checked)),
      // A pool's copy has its volume and numbers, and may hold something else.
      identity_(absl::StrCat(device_->node(), "-", image::DigestHex(geometry_.volume), "-", entry_.id, "-",
                             image::DigestHex(entry_.digest))) {}

absl::StatusOr<std::shared_ptr<DaxPages>> DaxPages::Open(std::unique_ptr<DaxDevice> device,
                                                         const DaxGeometry& geometry, DaxEntry entry,
                                                         std::shared_ptr<DaxChecked> checked) {
  std::shared_ptr<DaxPages> pages(
      new DaxPages(std::move(device), geometry, std::move(entry), std::move(checked)));
  MOULT_RETURN_IF_ERROR(pages->MapView());
  return pages;
}

std::string DaxPages::where() const {
  return absl::StrCat("template ", entry_.name, " on ", device_->path());
}

absl::Status DaxPages::MapView() {
  const uint64_t length = entry_.blocks() * geometry_.block;
  reserved_bytes_ = length + geometry_.align;
  void* const at =
      mmap(nullptr, reserved_bytes_, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (at == MAP_FAILED) return MappingError(absl::StrCat("map ", where()));
  reserved_ = static_cast<std::byte*>(at);
  // SAFETY: rounded up within what was reserved for that.
  view_ = reserved_ +
          (AlignUp(reinterpret_cast<uintptr_t>(at), geometry_.align) - reinterpret_cast<uintptr_t>(at));
  return MapBlocks(view_, length, PROT_READ, MAP_SHARED);
}

DaxPages::~DaxPages() {
  if (reserved_ != nullptr) munmap(reserved_, reserved_bytes_);
}

absl::Status DaxPages::MapBlocks(std::byte* at, uint64_t length, int access, int flags) const {
  for (const DaxRange& range : entry_.ranges(geometry_)) {
    const uint64_t step = std::min(range.length, length);
    if (step == 0) break;
    // SAFETY: the callers have checked that [at, at + length) is theirs to map over.
    if (mmap(at, step, access, MAP_FIXED | MAP_NORESERVE | flags, device_->fd(),
             static_cast<off_t>(range.at)) == MAP_FAILED) {
      return MappingError(absl::StrCat("map ", step, " bytes at ", range.at, " of ", where()));
    }
    at += step;
    length -= step;
  }
  return absl::OkStatus();
}

absl::Status DaxPages::MapOver(std::byte* at, uint64_t room) const {
  // A device has no smaller mappings.
  const uint64_t length = entry_.manifest_at(geometry_);
  if (reinterpret_cast<uintptr_t>(at) % geometry_.align != 0 || length > room) {
    return absl::FailedPreconditionError(absl::StrCat(
        "map ", where(), ": the device maps pieces of ", geometry_.align,
        " bytes only, and this place in the window is not aligned to that; align the window's memory in "
        "the VMM, or use copy mode"));
  }
  // SAFETY: within the caller's `room`. A device knows no private mappings, so there it is one that cannot be
  // written to, nor be made so: the descriptor is read-only.
  if (writable()) return MapBlocks(at, length, PROT_READ | PROT_WRITE, MAP_PRIVATE);
  return MapBlocks(at, length, PROT_READ, MAP_SHARED);
}

absl::Status DaxPages::MapShared(std::byte* at, uint64_t length) const {
  return MapBlocks(at, length, PROT_READ | PROT_WRITE, MAP_SHARED);
}

std::string DaxPages::manifest_file() const {
  // SAFETY: MapView has mapped all of the entry's bytes.
  return {reinterpret_cast<const char*>(view_ + entry_.manifest_at(geometry_)), entry_.manifest_size};
}

std::string DaxPages::image_file() const {
  // SAFETY: as above.
  return {reinterpret_cast<const char*>(view_ + entry_.image_at(geometry_)), entry_.image_size};
}

absl::Status DaxPages::Read(uint64_t offset, absl::Span<std::byte> to) const {
  if (offset > size() || to.size() > size() - offset) {
    return absl::OutOfRangeError(absl::StrCat("read pages of ", where(), ": past the end at ", size()));
  }
  std::memcpy(to.data(), view_ + offset, to.size());
  return absl::OkStatus();
}

absl::Status DaxPages::Verify(const image::PageLeaves& leaves, Clock::time_point deadline) const {
  using image::kPagesChunk;
  if (checked_->Has(identity_)) return absl::OkStatus();
  if (leaves.digests.size() != (size() + kPagesChunk - 1) / kPagesChunk * sizeof(image::Sha256Digest)) {
    return absl::DataLossError(absl::StrCat(where(), ": pages: not as many as the manifest has digests for"));
  }
  for (uint64_t at = 0; at < size(); at += kPagesChunk) {
    if (Clock::now() >= deadline)
      return absl::DeadlineExceededError(absl::StrCat(where(), ": not checked in time"));
    const uint64_t bytes = std::min(kPagesChunk, size() - at);
    if (leaves.Match({view_ + at, bytes}, at / kPagesChunk)) continue;
    return absl::DataLossError(
        absl::StrCat(where(), ": pages: chunk ", at / kPagesChunk, " (offset ", at, ", ", bytes,
                     " bytes) does not match its digest; remove it, and push it again"));
  }
  // Shown with the pages, and no digest covers it.
  const absl::Span<const std::byte> behind(view_ + size(), entry_.manifest_at(geometry_) - size());
  if (std::any_of(behind.begin(), behind.end(), [](std::byte one) { return one != std::byte{0}; })) {
    return absl::DataLossError(
        absl::StrCat(where(), ": what is behind its pages is not zero; remove it, and push it again"));
  }
  checked_->Add(identity_);
  return absl::OkStatus();
}

}  // namespace moult::host
