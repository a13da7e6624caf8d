// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <array>
#include <cstring>

#include "pool/rdma/connection.h"

namespace moult::host::rdma {
namespace {

// Cuts pieces into steps, each of which fits into a slot of the bounce memory.
class Steps {
 public:
  explicit Steps(absl::Span<const PoolPiece> pieces) : pieces_(pieces) {}
  // An empty piece: no more.
  PoolPiece Next() {
    while (index_ < pieces_.size()) {
      const PoolPiece& piece = pieces_[index_];
      const size_t size = std::min(Connection::kStep, piece.to.size() - done_);
      if (size != 0) {
        const PoolPiece step{piece.offset + done_, piece.to.subspan(done_, size)};
        done_ += size;
        return step;
      }
      ++index_;
      done_ = 0;
    }
    return {0, {}};
  }

 private:
  const absl::Span<const PoolPiece> pieces_;
  size_t index_ = 0;
  size_t done_ = 0;
};

absl::Status CheckPieces(const Region& region, absl::Span<const PoolPiece> pieces) {
  const uint64_t length = region.layout.length();
  for (const PoolPiece& piece : pieces) {
    if (piece.offset > length || piece.to.size() > length - piece.offset) {
      return absl::OutOfRangeError(absl::StrCat("rdma: ", piece.to.size(), " bytes at ", piece.offset, " of ", length));
    }
  }
  return absl::OkStatus();
}

}  // namespace

template <typename Prepare, typename Finish>
absl::Status Connection::Transfer(ibv_wr_opcode operation, const Region& region, absl::Span<const PoolPiece> pieces,
                                  Clock::time_point deadline, Prepare prepare, Finish finish) {
  MOULT_RETURN_IF_ERROR(CheckPieces(region, pieces));
  std::array<PoolPiece, Queue::kMaxWork> under_way;
  std::array<uint32_t, Queue::kMaxWork> free;
  size_t free_count = free.size();
  for (uint32_t i = 0; i < free.size(); ++i) free[i] = i;
  const auto slot = [&](uint32_t number) { return bounce_.bytes().subspan(number * kStep, kStep); };
  // Also where it is left early: what is under way then is written into memory that nobody else gets.
  const auto broken = [&](const absl::Status& status) {
    usable_ = false;
    return Annotated(status);
  };
  Steps steps(pieces);
  PoolPiece next = steps.Next();
  while (!next.to.empty() || free_count < free.size()) {
    while (!next.to.empty() && free_count > 0) {
      const uint32_t number = free[--free_count];
      const absl::Span<std::byte> local = slot(number).first(next.to.size());
      prepare(local, next);
      under_way[number] = next;
      const absl::Status posted = queue_->Post(operation, number, local, bounce_region_->lkey,
                                               region.address + next.offset, region.key);
      if (!posted.ok()) return broken(posted);
      next = steps.Next();
    }
    const auto done = queue_->Completion(deadline, over());
    if (!done.ok()) return broken(done.status());
    if (done->status != IBV_WC_SUCCESS) {
      const std::string why = absl::StrCat("rdma: ", api_->wc_status_str(done->status));
      return broken(done->status == IBV_WC_REM_ACCESS_ERR ? absl::PermissionDeniedError(why) : absl::UnavailableError(why));
    }
    finish(slot(done->id), under_way[done->id]);
    free[free_count++] = done->id;
  }
  return absl::OkStatus();
}

absl::Status Connection::Read(const Region& region, absl::Span<const PoolPiece> pieces, Clock::time_point deadline) {
  return Transfer(
      IBV_WR_RDMA_READ, region, pieces, deadline, [](absl::Span<std::byte>, const PoolPiece&) {},
      [](absl::Span<std::byte> local, const PoolPiece& step) { std::memcpy(step.to.data(), local.data(), step.to.size()); });
}

absl::Status Connection::Write(const Region& region, uint64_t offset, absl::Span<const std::byte> bytes,
                               Clock::time_point deadline) {
  // SAFETY: only read from; a piece has no other form.
  const PoolPiece piece{offset, {const_cast<std::byte*>(bytes.data()), bytes.size()}};
  return Write(region, {&piece, 1}, deadline);
}

absl::Status Connection::Write(const Region& region, absl::Span<const PoolPiece> pieces, Clock::time_point deadline) {
  return Transfer(
      IBV_WR_RDMA_WRITE, region, pieces, deadline,
      [](absl::Span<std::byte> local, const PoolPiece& step) { std::memcpy(local.data(), step.to.data(), local.size()); },
      [](absl::Span<std::byte>, const PoolPiece&) {});
}

}  // namespace moult::host::rdma
