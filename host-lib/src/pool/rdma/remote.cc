// SPDX-License-Identifier: Apache-2.0
#include "pool/rdma/remote.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "moult/base/status.h"
#include "moult/protocol/limits.h"

namespace moult::host::rdma {

Clock::time_point ShareOf(Clock::time_point deadline, size_t left) {
  if (left <= 1 || deadline == Clock::time_point::max()) return deadline;
  const auto now = Clock::now();
  return now + std::max(deadline - now, Clock::duration::zero()) / 2;
}

bool MayPass(const absl::Status& status) { return absl::IsUnavailable(status) || absl::IsDeadlineExceeded(status); }

absl::StatusOr<std::shared_ptr<Remote>> Remote::Open(std::shared_ptr<Links> links, const std::string& name,
                                                     Clock::time_point deadline) {
  const size_t nodes = links->size();
  absl::Status first;
  for (size_t i = 0; i < nodes; ++i) {
    std::shared_ptr<Remote> remote(new Remote(links, name));
    remote->current_ = i;
    const absl::Status status = remote->OpenAt(i, ShareOf(deadline, nodes - i));
    if (status.ok()) return remote;
    // "Not there" of one node says less than another's "not now".
    if (first.ok() || (MayPass(status) && !MayPass(first))) first = status;
  }
  return Annotate(first, absl::StrCat("open template ", name));
}

absl::Status Remote::OpenAt(size_t node, Clock::time_point deadline) {
  for (bool again = true;; again = false) {
    MOULT_ASSIGN_OR_RETURN(Link::Lease lease, (*links_)[node].Take(deadline));
    auto opened = lease->Ask<Opened>(rdma::Open{name_}, deadline);
    absl::Status status = opened.status();
    if (status.ok()) {
      layout_ = opened->region.layout;
      manifest_.resize(layout_.manifest);
      image_.resize(layout_.image);
      const auto bytes = [](std::string& text) {
        // SAFETY: a string's own bytes, as bytes.
        return absl::MakeSpan(reinterpret_cast<std::byte*>(text.data()), text.size());
      };
      const PoolPiece pieces[] = {{layout_.manifest_at(), bytes(manifest_)}, {layout_.image_at(), bytes(image_)}};
      status = lease->Read(opened->region, pieces, deadline);
    }
    if (status.ok()) {
      // Computed, not believed: other nodes' templates are held against it.
      digest_ = image::Sha256Of(manifest_);
      regions_[node] = opened->region;
      return status;
    }
    // A connection that was kept may have ended unseen.
    if (!again || lease.fresh() || lease->usable()) return status;
  }
}

absl::Status Remote::CheckPieces(absl::Span<const PoolPiece> pieces, uint64_t unit, uint64_t end) const {
  for (const PoolPiece& piece : pieces) {
    if (piece.offset % unit != 0 || piece.to.size() % unit != 0) {
      return absl::InvalidArgumentError(absl::StrCat("read template ", name_, ": not in pieces of ", unit, " bytes at ", piece.offset));
    }
    if (piece.offset > end || piece.to.size() > end - piece.offset) {
      return absl::OutOfRangeError(absl::StrCat("read template ", name_, ": past the end at ", piece.offset));
    }
  }
  return absl::OkStatus();
}

absl::Status Remote::ReadWithDigests(absl::Span<const PoolPiece> pages, absl::Span<const PoolPiece> digests,
                                     Clock::time_point deadline) {
  MOULT_RETURN_IF_ERROR(CheckPieces(pages, image::kPageSize, layout_.pages));
  MOULT_RETURN_IF_ERROR(CheckPieces(digests, sizeof(image::Sha256Digest), layout_.digests()));
  std::vector<PoolPiece> pieces(pages.begin(), pages.end());
  for (const PoolPiece& piece : digests) pieces.push_back({layout_.digests_at() + piece.offset, piece.to});
  size_t start = 0;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    start = current_;
  }
  const size_t nodes = links_->size();
  absl::Status first;
  for (size_t i = 0; i < nodes; ++i) {
    const size_t node = (start + i) % nodes;
    const absl::Status status = ReadAt(node, pieces, ShareOf(deadline, nodes - i));
    if (status.ok()) {
      if (i != 0) {
        const std::lock_guard<std::mutex> lock(mutex_);
        current_ = node;
      }
      return status;
    }
    if (first.ok() || (MayPass(status) && !MayPass(first))) first = status;
  }
  return Annotate(first, absl::StrCat("read template ", name_));
}

absl::Status Remote::ReadAt(size_t node, absl::Span<const PoolPiece> pieces, Clock::time_point deadline) {
  absl::Status status;
  // Once more after a region that was taken back, and once more after a connection that ended unseen.
  for (int attempts = 0; attempts < 3; ++attempts) {
    MOULT_ASSIGN_OR_RETURN(Link::Lease lease, (*links_)[node].Take(deadline));
    const auto region = RegionAt(node, lease, deadline);
    status = region.status();
    if (status.ok()) status = lease->Read(*region, pieces, deadline);
    if (status.ok() || absl::IsDeadlineExceeded(status)) return status;
    if (region.ok() && absl::IsPermissionDenied(status)) {
      Forget(node, *region);
    } else if (lease.fresh() || lease->usable()) {
      return status;
    }
  }
  return status;
}

absl::StatusOr<Region> Remote::RegionAt(size_t node, Link::Lease& lease, Clock::time_point deadline) {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (regions_[node]) return *regions_[node];
  }
  MOULT_ASSIGN_OR_RETURN(const Opened opened, lease->Ask<Opened>(rdma::Open{name_}, deadline));
  if (opened.digest != digest_ || opened.region.layout != layout_) {
    return absl::NotFoundError(absl::StrCat("memory node ", (*links_)[node].node().text(), ": has another template of this name, with digest ",
                                            image::DigestHex(opened.digest)));
  }
  const std::lock_guard<std::mutex> lock(mutex_);
  regions_[node] = opened.region;
  return opened.region;
}

void Remote::Forget(size_t node, const Region& region) {
  const std::lock_guard<std::mutex> lock(mutex_);
  // Another thread may have asked again meanwhile.
  if (regions_[node] && regions_[node]->key == region.key) regions_[node].reset();
}

}  // namespace moult::host::rdma
