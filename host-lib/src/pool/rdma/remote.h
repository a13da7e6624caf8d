// SPDX-License-Identifier: Apache-2.0
#ifndef MOULT_HOST_POOL_RDMA_REMOTE_H_
#define MOULT_HOST_POOL_RDMA_REMOTE_H_

#include <deque>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "pool/rdma/link.h"
#include "pool/template_pool.h"

namespace moult::host::rdma {

// The memory nodes of one pool, the preferred first. Shared by the pool and the templates that are open.
using Links = std::deque<Link>;

// When the attempt at one of `left` nodes has to end, so that the next has its share.
Clock::time_point ShareOf(Clock::time_point deadline, size_t left);

// Whether another node, or the same one later, may do better.
bool MayPass(const absl::Status& status);

class Remote final : public RemoteTemplate {
 public:
  // From the first node that has it. kNotFound: no node that answers.
  static absl::StatusOr<std::shared_ptr<Remote>> Open(std::shared_ptr<Links> links, const std::string& name,
                                                      Clock::time_point deadline);

  const std::string& manifest_file() const override { return manifest_; }
  const std::string& image_file() const override { return image_; }
  uint64_t pages_size() const override { return layout_.pages; }
  absl::Status Read(absl::Span<const PoolPiece> pieces, Clock::time_point deadline) override {
    return ReadWithDigests(pieces, {}, deadline);
  }
  bool has_page_digests() const override { return true; }
  absl::Status ReadWithDigests(absl::Span<const PoolPiece> pieces, absl::Span<const PoolPiece> digests,
                               Clock::time_point deadline) override;

 private:
  Remote(std::shared_ptr<Links> links, std::string name) : links_(std::move(links)), name_(std::move(name)), regions_(links_->size()) {}
  // Of whole units, and below `end`.
  absl::Status CheckPieces(absl::Span<const PoolPiece> pieces, uint64_t unit, uint64_t end) const;
  absl::Status OpenAt(size_t node, Clock::time_point deadline);
  absl::Status ReadAt(size_t node, absl::Span<const PoolPiece> pieces, Clock::time_point deadline);
  // The region at a node, asked for where it is not known, and only one of the same template.
  absl::StatusOr<Region> RegionAt(size_t node, Link::Lease& lease, Clock::time_point deadline);
  void Forget(size_t node, const Region& region);

  const std::shared_ptr<Links> links_;
  const std::string name_;
  std::string manifest_;
  std::string image_;
  image::Sha256Digest digest_{};
  Layout layout_;
  std::mutex mutex_;  // guards the rest; never held over the network
  std::vector<std::optional<Region>> regions_;
  size_t current_ = 0;
};

}  // namespace moult::host::rdma

#endif  // MOULT_HOST_POOL_RDMA_REMOTE_H_
