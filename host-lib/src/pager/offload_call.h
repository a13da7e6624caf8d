// SPDX-License-Identifier: Apache-2.0
#ifndef MOULT_HOST_PAGER_OFFLOAD_CALL_H_
#define MOULT_HOST_PAGER_OFFLOAD_CALL_H_

#include <list>
#include <vector>

#include "pager/pager.h"

namespace moult::host {

inline constexpr size_t kOffloadPiecePages = 256;  // copied at a time

// One call. Its records are kCopying until all of them are in the pool, so that a full pool costs nobody a
// fault.
class Pager::OffloadCall {
 public:
  OffloadCall(Pager* pager, uint64_t owner)
      : pager_(*pager),
        owner_(owner),
        buffers_{std::make_shared<PageBuffer>(kOffloadPiecePages), std::make_shared<PageBuffer>(kOffloadPiecePages)} {}

  absl::Status Check(absl::Span<const OffloadRun> runs);
  absl::StatusOr<OffloadResult> Run();

 private:
  struct Wanted {
    PageId page;
    uint64_t va;
    uint32_t pid;
  };
  // All memory that it takes but for a little: where there is none, that is found out before anything is begun.
  void Prepare();
  void Claim();
  absl::Status Move();
  absl::Status FillHoles();
  absl::Status FillHolesOf(absl::Span<const size_t> piece);
  absl::Status Protect();
  // What is on its way into the pool while the next piece is copied.
  struct Sent {
    std::unique_ptr<PagePool::Writing> writing;
    std::vector<size_t> stored;  // records
  };
  absl::Status Copy();
  absl::Status CopyAll(Sent* sent);
  absl::Status AwaitSent(Sent* sent);
  absl::Status CopyPiece(absl::Span<const size_t> piece, PageBuffer* buffer, std::vector<size_t>* stored);
  absl::Status Leave();
  absl::Status LeavePiece(absl::Span<const size_t> piece);
  void Return();
  void ReturnPiece(absl::Span<const size_t> piece);
  absl::Status BringBack();
  bool Follows(size_t i) const;
  std::vector<size_t> Copying(size_t first, size_t count);
  Record& record(size_t i) { return batch_->records[i]; }

  Pager& pager_;
  const uint64_t owner_;
  std::vector<Wanted> wanted_;
  std::vector<uint64_t> chunks_;
  std::list<Batch> made_;  // until Claim gives it to the owner
  Batch* batch_ = nullptr;
  std::vector<size_t> sorted_;  // indices of claimed records, by page
  std::vector<PoolSlot> slots_;     // of each record that was copied: ours, until it is kOut
  std::shared_ptr<PageBuffer> buffers_[2];  // by turns; a write that has failed may have them for good
  PageBuffer back_{kOffloadPiecePages};
  OffloadResult result_;
};

}  // namespace moult::host

#endif  // MOULT_HOST_PAGER_OFFLOAD_CALL_H_
