// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <array>
#include <cstring>
#include <new>

#include "memory/mapping_error.h"
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
  Prepare();
  MOULT_RETURN_IF_ERROR(pager_.Use(chunks_));
  Claim();
  absl::Status status = Move();
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

void Pager::OffloadCall::Prepare() {
  made_.emplace_back();
  made_.front().owner = owner_;
  made_.front().live = 1;
  made_.front().records.resize(wanted_.size());
  slots_.assign(wanted_.size(), Record::kZero);
  sorted_.reserve(wanted_.size());
  const std::lock_guard<std::mutex> lock(pager_.mutex_);
  for (const uint64_t chunk : chunks_) pager_.table_.MakeChunk(chunk);
  (void)pager_.owners_[owner_];
}

// A process that is short of mappings gets no large piece of memory either.
absl::Status Pager::OffloadCall::Move() {
  try {
    MOULT_RETURN_IF_ERROR(FillHoles());
    MOULT_RETURN_IF_ERROR(Protect());
    MOULT_RETURN_IF_ERROR(Copy());
    return Leave();
  } catch (const std::bad_alloc&) {
    return OutOfMemory();
  }
}

void Pager::OffloadCall::Claim() {
  const std::lock_guard<std::mutex> lock(pager_.mutex_);
  Owner& owner = pager_.owners_[owner_];
  owner.recording_until = Clock::time_point::min();  // What faults from now on does not run.
  owner.batches.splice(owner.batches.end(), made_);
  batch_ = &owner.batches.back();
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
  for (size_t first = 0, end; first < sorted_.size(); first = end) {
    const PageId page = wanted_[sorted_[first]].page;
    for (end = first + 1; end < sorted_.size() && Follows(end); ++end) continue;
    MOULT_RETURN_IF_ERROR(pager_.uffd_->Protect(pager_.table_.Host(page, end - first)));
  }
  return absl::OkStatus();
}

// Whether the pages at `i` of sorted_ and before it are neighbours of one region.
bool Pager::OffloadCall::Follows(size_t i) const {
  const PageId before = wanted_[sorted_[i - 1]].page;
  return before + 1 == wanted_[sorted_[i]].page && pager_.table_.SameRegion(before, wanted_[sorted_[i]].page);
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
  Sent sent;
  absl::Status status;
  try {
    status = CopyAll(&sent);
  } catch (const std::bad_alloc&) {
    status = OutOfMemory();
  }
  // In any case: its slots are ours then.
  status.Update(AwaitSent(&sent));
  return status;
}

absl::Status Pager::OffloadCall::CopyAll(Sent* sent) {
  size_t turn = 0;
  for (size_t first = 0; first < wanted_.size(); first += kOffloadPiecePages) {
    const auto piece = Copying(first, std::min(kOffloadPiecePages, wanted_.size() - first));
    if (piece.empty()) continue;
    const std::shared_ptr<PageBuffer>& buffer = buffers_[turn];
    Sent next;
    MOULT_RETURN_IF_ERROR(CopyPiece(piece, buffer.get(), &next.stored));
    MOULT_RETURN_IF_ERROR(AwaitSent(sent));
    if (next.stored.empty()) continue;
    next.writing = pager_.config_.pool->BeginWrite(buffer, next.stored.size());
    *sent = std::move(next);
    turn ^= 1;
  }
  return absl::OkStatus();
}

absl::Status Pager::OffloadCall::AwaitSent(Sent* sent) {
  if (sent->writing == nullptr) return absl::OkStatus();
  std::array<PoolSlot, kOffloadPiecePages> slots;
  const absl::Status status = std::exchange(sent->writing, nullptr)->Await(absl::MakeSpan(slots).first(sent->stored.size()));
  for (size_t i = 0; status.ok() && i < sent->stored.size(); ++i) slots_[sent->stored[i]] = slots[i];
  return status;
}

absl::Status Pager::OffloadCall::CopyPiece(absl::Span<const size_t> piece, PageBuffer* buffer,
                                           std::vector<size_t>* stored) {
  size_t at = 0;
  for (size_t i = 0; i < piece.size();) {
    size_t end = i + 1;
    while (end < piece.size() && wanted_[piece[end]].page == wanted_[piece[i]].page + (end - i) &&
           pager_.table_.SameRegion(wanted_[piece[i]].page, wanted_[piece[end]].page)) {
      ++end;
    }
    MOULT_RETURN_IF_ERROR(
        pager_.memory_->Read(pager_.table_.Pages(wanted_[piece[i]].page, end - i), buffer->page(i)));
    for (; i < end; ++i) {
      if (IsZero(buffer->page(i))) continue;
      // Moved together in place; most pieces have no zeros.
      if (at != i) std::memcpy(buffer->page(at), buffer->page(i), kPage);
      ++at;
      stored->push_back(piece[i]);
    }
  }
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
  absl::StatusOr<OffloadResult> result = OutOfMemory();
  try {
    OffloadCall call(this, owner);
    absl::Status status = call.Check(runs);
    if (status.ok()) status = OpenUffd();
    result = status.ok() ? call.Run() : status;
  } catch (const std::bad_alloc&) {
    // Before anything was begun.
  }
  if (!result.ok()) return Annotate(result.status(), absl::StrCat("offload of function ", owner));
  return result;
}

}  // namespace moult::host
