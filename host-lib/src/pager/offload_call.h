// SPDX-License-Identifier: Apache-2.0
#ifndef MOULT_HOST_PAGER_OFFLOAD_CALL_H_
#define MOULT_HOST_PAGER_OFFLOAD_CALL_H_

#include <vector>

#include "pager/pager.h"

namespace moult::host {

inline constexpr size_t kOffloadPiecePages = 256;  // copied at a time

// One call. Its records are kCopying until all of them are in the pool, so that a full pool costs nobody a
// fault.
class Pager::OffloadCall {
 public:
  OffloadCall(Pager* pager, uint64_t owner) : pager_(*pager), owner_(owner), buffer_(kOffloadPiecePages) {}

  absl::Status Check(absl::Span<const OffloadRun> runs);
  absl::StatusOr<OffloadResult> Run();

 private:
  struct Wanted {
    PageId page;
    uint64_t va;
    uint32_t pid;
  };
  void Claim();
  absl::Status FillHoles();
  absl::Status FillHolesOf(absl::Span<const size_t> piece);
  absl::Status Protect();
  absl::Status Copy();
  absl::Status CopyPiece(absl::Span<const size_t> piece);
  absl::Status Leave();
  absl::Status LeavePiece(absl::Span<const size_t> piece);
  void Return();
  absl::Status BringBack();
  std::vector<size_t> Copying(size_t first, size_t count);
  Record& record(size_t i) { return batch_->records[i]; }

  Pager& pager_;
  const uint64_t owner_;
  std::vector<Wanted> wanted_;
  std::vector<uint64_t> chunks_;
  Batch* batch_ = nullptr;
  std::vector<size_t> sorted_;  // indices of claimed records, by page
  std::vector<PoolSlot> slots_;     // of each record that was copied: ours, until it is kOut
  PageBuffer buffer_;
  OffloadResult result_;
};

}  // namespace moult::host

#endif  // MOULT_HOST_PAGER_OFFLOAD_CALL_H_
