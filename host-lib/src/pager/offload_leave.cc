// SPDX-License-Identifier: Apache-2.0
//
// The second half of an Offload: pages leave guest RAM, or go back to what they were.
#include <algorithm>

#include "moult/base/status.h"
#include "pager/offload_call.h"

namespace moult::host {
namespace {

constexpr size_t kLeavingPages = 1024;  // discarded at a time: as long a fault there waits

}  // namespace

absl::Status Pager::OffloadCall::Leave() {
  const auto sorted = absl::MakeConstSpan(sorted_);
  for (size_t first = 0; first < sorted.size(); first += kLeavingPages) {
    MOULT_RETURN_IF_ERROR(LeavePiece(sorted.subspan(first, kLeavingPages)));
  }
  return absl::OkStatus();
}

absl::Status Pager::OffloadCall::LeavePiece(absl::Span<const size_t> piece) {
  std::vector<PageId> leaving;
  std::vector<PoolSlot> unused;
  leaving.reserve(piece.size());
  unused.reserve(piece.size());
  {
    const std::lock_guard<std::mutex> lock(pager_.mutex_);
    for (const size_t i : piece) {
      const PoolSlot slot = std::exchange(slots_[i], Record::kZero);
      if (record(i).state == PageState::kCopying) {
        record(i).state = PageState::kLeaving;
        record(i).slot = slot;
        leaving.push_back(record(i).page);
        (slot == Record::kZero ? result_.zero_bytes : result_.moved_bytes) += kPage;
      } else {
        if (slot != Record::kZero) unused.push_back(slot);
        result_.stayed_bytes += kPage;
      }
    }
  }
  if (!unused.empty()) pager_.config_.pool->Free(unused);
  absl::Status status;
  for (const PageSpan& run : SortedRuns(pager_.table_, leaving)) {
    // SAFETY: pages that are kLeaving, so nobody else changes them, and whose content is in the pool as it is
    // now: they have been write-protected since before it was copied.
    status = pager_.memory_->Release(pager_.table_.Pages(run.first, run.count));
    if (!status.ok()) break;
  }
  std::vector<PageId> wake;
  {
    const std::lock_guard<std::mutex> lock(pager_.mutex_);
    for (const PageId page : leaving) {
      Record* const each = pager_.table_.Get(page);
      each->state = PageState::kOut;
      pager_.Count(owner_,
                   each->slot == Record::kZero ? &PagerCounts::zero_bytes : &PagerCounts::offloaded_bytes,
                   static_cast<int64_t>(kPage));
      if (std::exchange(each->noted, false)) wake.push_back(page);
    }
  }
  pager_.changed_.notify_all();
  for (const PageId page : wake) pager_.Wake(page);
  return status;
}

// What has not left is as it was before.
void Pager::OffloadCall::Return() {
  const auto sorted = absl::MakeConstSpan(sorted_);
  for (size_t first = 0; first < sorted.size(); first += kLeavingPages) ReturnPiece(sorted.subspan(first, kLeavingPages));
  std::erase(slots_, Record::kZero);
  if (!slots_.empty()) pager_.config_.pool->Free(slots_);
}

void Pager::OffloadCall::ReturnPiece(absl::Span<const size_t> piece) {
  std::vector<PageId> ours;
  ours.reserve(piece.size());
  {
    const std::lock_guard<std::mutex> lock(pager_.mutex_);
    for (const size_t i : piece) {
      if (record(i).state != PageState::kCopying) continue;
      record(i).state = PageState::kComing;
      ours.push_back(record(i).page);
    }
  }
  for (const PageSpan& run : SortedRuns(pager_.table_, ours)) {
    // A page that stays protected costs a fault when it is written.
    (void)pager_.uffd_->Unprotect(pager_.table_.Host(run.first, run.count));
  }
  std::vector<PageId> wake;
  {
    const std::lock_guard<std::mutex> lock(pager_.mutex_);
    std::vector<uint64_t> chunks;  // Ours until Unuse.
    for (const PageId page : ours) {
      Record* const each = pager_.table_.Get(page);
      if (each->noted) wake.push_back(page);
      each->state = PageState::kCopying;
      pager_.Forget(each, nullptr, &chunks);
    }
  }
  pager_.changed_.notify_all();
  for (const PageId page : wake) pager_.Wake(page);
}

absl::Status Pager::OffloadCall::BringBack() {
  absl::Status status;
  for (size_t first = 0; first < wanted_.size(); first += kOffloadPiecePages) {
    std::vector<Record*> claimed;
    {
      const std::lock_guard<std::mutex> lock(pager_.mutex_);
      for (size_t i = first; i < std::min(first + kOffloadPiecePages, wanted_.size()); ++i) {
        if (record(i).state != PageState::kOut) continue;
        record(i).state = PageState::kComing;
        claimed.push_back(&record(i));
      }
    }
    if (!claimed.empty()) status.Update(pager_.Bring(claimed, nullptr, &back_));
  }
  return status;
}

}  // namespace moult::host
