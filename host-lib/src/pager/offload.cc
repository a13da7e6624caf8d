// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cstring>

#include "moult/base/status.h"
#include "pager/offload_call.h"

namespace moult::host {
namespace {

bool IsZero(const std::byte* page) {
  static constexpr std::byte zeros[kPage] = {};
  return std::memcmp(page, zeros, kPage) == 0;
}

}  // namespace

absl::Status Pager::OffloadCall::Check(absl::Span<const OffloadRun> runs) {
  const uint64_t most = pager_.memory_->size() / kPage;
  for (const OffloadRun& run : runs) {
    MOULT_ASSIGN_OR_RETURN(const PageId first, pager_.table_.First(run.range));
    if (run.va % kPage != 0 || run.va > UINT64_MAX - run.range.length) {
      return absl::InvalidArgumentError(
          absl::StrFormat("%s: virtual address %#x is not page aligned, or wraps", run.range.Text(), run.va));
    }
    const uint64_t pages = run.range.length / kPage;
    if (pages > most - wanted_.size()) {
      return absl::InvalidArgumentError("the runs name more pages than the guest has");
    }
    for (uint64_t i = 0; i < pages; ++i) wanted_.push_back({first + i, run.va + i * kPage, run.pid});
  }
  for (const Wanted& wanted : wanted_) {
    const uint64_t chunk = PageTable::ChunkOf(wanted.page);
    if (chunks_.empty() || chunks_.back() != chunk) chunks_.push_back(chunk);
  }
  std::sort(chunks_.begin(), chunks_.end());
  chunks_.erase(std::unique(chunks_.begin(), chunks_.end()), chunks_.end());
  return absl::OkStatus();
}

absl::StatusOr<OffloadResult> Pager::OffloadCall::Run() {
  MOULT_RETURN_IF_ERROR(pager_.Use(chunks_));
  Claim();
  absl::Status status = FillHoles();
  if (status.ok()) status = Protect();
  if (status.ok()) status = Copy();
  if (status.ok()) status = Leave();
  if (!status.ok()) {
    Return();
    const absl::Status back = BringBack();
    status = Annotate(
        status,
        back.ok() ? "nothing is offloaded"
                  : absl::StrCat("what was moved could not all be read back, and comes when it is touched (",
                                 back.message(), ")"));
  }
  {
    const std::lock_guard<std::mutex> lock(pager_.mutex_);
    pager_.Unref(batch_);
  }
  pager_.changed_.notify_all();
  pager_.Unuse(chunks_);
  if (!status.ok()) return status;
  return result_;
}

void Pager::OffloadCall::Claim() {
  const std::lock_guard<std::mutex> lock(pager_.mutex_);
  Owner& owner = pager_.owners_[owner_];
  owner.recording_until = Clock::time_point::min();  // What faults from now on does not run.
  batch_ = &owner.batches.emplace_back();
  batch_->owner = owner_;
  batch_->live = 1;
  batch_->records.resize(wanted_.size());
  slots_.assign(wanted_.size(), Record::kZero);
  for (size_t i = 0; i < wanted_.size(); ++i) {
    const Wanted& wanted = wanted_[i];
    if (const Record* other = pager_.table_.Get(wanted.page); other != nullptr) {
      const bool out = other->state == PageState::kOut || other->state == PageState::kFailed ||
                       other->state == PageState::kLost;
      (out ? result_.already_bytes : result_.stayed_bytes) += kPage;
      continue;
    }
    record(i) = {.page = wanted.page,
                 .va = wanted.va,
                 .batch = batch_,
                 .pid = wanted.pid,
                 .state = PageState::kCopying};
    pager_.table_.Set(wanted.page, &record(i));
    ++batch_->live;
    sorted_.push_back(i);
  }
  std::sort(sorted_.begin(), sorted_.end(),
            [&](size_t a, size_t b) { return wanted_[a].page < wanted_[b].page; });
}

// Pages that a fault has taken away since are protected as well; that costs them one more fault.
absl::Status Pager::OffloadCall::Protect() {
  std::vector<PageId> pages;
  for (const size_t i : sorted_) pages.push_back(wanted_[i].page);
  for (const PageSpan& run : SortedRuns(pager_.table_, std::move(pages))) {
    MOULT_RETURN_IF_ERROR(pager_.uffd_->Protect(pager_.table_.Host(run.first, run.count)));
  }
  return absl::OkStatus();
}

// Which of the records [first, first + count) are still ours.
std::vector<size_t> Pager::OffloadCall::Copying(size_t first, size_t count) {
  std::vector<size_t> copying;
  const std::lock_guard<std::mutex> lock(pager_.mutex_);
  for (size_t i = first; i < first + count; ++i) {
    if (record(i).state == PageState::kCopying) copying.push_back(i);
  }
  return copying;
}

absl::Status Pager::OffloadCall::Copy() {
  for (size_t first = 0; first < wanted_.size(); first += kOffloadPiecePages) {
    const auto piece = Copying(first, std::min(kOffloadPiecePages, wanted_.size() - first));
    if (!piece.empty()) MOULT_RETURN_IF_ERROR(CopyPiece(piece));
  }
  return absl::OkStatus();
}

absl::Status Pager::OffloadCall::CopyPiece(absl::Span<const size_t> piece) {
  size_t at = 0;
  std::vector<size_t> stored;
  for (size_t i = 0; i < piece.size();) {
    size_t end = i + 1;
    while (end < piece.size() && wanted_[piece[end]].page == wanted_[piece[i]].page + (end - i) &&
           pager_.table_.SameRegion(wanted_[piece[i]].page, wanted_[piece[end]].page)) {
      ++end;
    }
    MOULT_RETURN_IF_ERROR(
        pager_.memory_->Read(pager_.table_.Pages(wanted_[piece[i]].page, end - i), buffer_.page(i)));
    for (; i < end; ++i) {
      if (IsZero(buffer_.page(i))) continue;
      // Moved together in place; most pieces have no zeros.
      if (at != i) std::memcpy(buffer_.page(at), buffer_.page(i), kPage);
      ++at;
      stored.push_back(piece[i]);
    }
  }
  if (stored.empty()) return absl::OkStatus();
  std::vector<PoolSlot> slots(at, Record::kZero);
  MOULT_RETURN_IF_ERROR(pager_.config_.pool->Write(buffer_.first(at), absl::MakeSpan(slots)));
  for (size_t i = 0; i < stored.size(); ++i) slots_[stored[i]] = slots[i];
  return absl::OkStatus();
}

// Private memory is read through the mapping, where a hole would be a fault of our own, and protection does
// not stick to a hole of it: one that is filled after Protect could be written unseen.
absl::Status Pager::OffloadCall::FillHoles() {
  const auto sorted = absl::MakeConstSpan(sorted_);
  for (size_t first = 0; first < sorted.size(); first += kOffloadPiecePages) {
    MOULT_RETURN_IF_ERROR(FillHolesOf(sorted.subspan(first, kOffloadPiecePages)));
  }
  return absl::OkStatus();
}

absl::Status Pager::OffloadCall::FillHolesOf(absl::Span<const size_t> piece) {
  std::vector<PageId> ours;
  {
    const std::lock_guard<std::mutex> lock(pager_.mutex_);
    for (const size_t i : piece) {
      if (record(i).state != PageState::kCopying || pager_.table_.shared(record(i).page)) continue;
      record(i).state = PageState::kLeaving;
      ours.push_back(record(i).page);
    }
  }
  if (ours.empty()) return absl::OkStatus();
  absl::Status status;
  for (const PageSpan& run : SortedRuns(pager_.table_, ours))
    status.Update(pager_.FillHoles(run.first, run.count));
  std::vector<PageId> wake;
  {
    const std::lock_guard<std::mutex> lock(pager_.mutex_);
    for (const PageId page : ours) {
      Record* const each = pager_.table_.Get(page);
      each->state = PageState::kCopying;
      if (std::exchange(each->noted, false)) wake.push_back(page);
    }
  }
  pager_.changed_.notify_all();
  for (const PageId page : wake) pager_.Wake(page);
  return status;
}

absl::StatusOr<OffloadResult> Pager::Offload(uint64_t owner, absl::Span<const OffloadRun> runs) {
  const std::string context = absl::StrCat("offload of function ", owner);
  OffloadCall call(this, owner);
  absl::Status status = call.Check(runs);
  if (status.ok()) status = OpenUffd();
  if (!status.ok()) return Annotate(status, context);
  absl::StatusOr<OffloadResult> result = call.Run();
  if (!result.ok()) return Annotate(result.status(), context);
  return result;
}

}  // namespace moult::host
