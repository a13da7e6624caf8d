// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <thread>

#include "moult/base/status.h"
#include "pager/pager.h"

namespace moult::host {
namespace {

constexpr std::chrono::milliseconds kBusyPause{50};
constexpr std::chrono::milliseconds kReadPause{20};

bool Waits(const Record& record) {
  return record.state == PageState::kOut || record.state == PageState::kFailed;
}

// The pool does not answer, so it is not asked for the next page. All else is about the page.
bool IsSilence(const absl::Status& read) { return absl::IsUnavailable(read) || absl::IsDeadlineExceeded(read); }

absl::Status LostPages() {
  return absl::DataLossError("some of its pages are lost; resolve them (zeros, poison, or another try)");
}

}  // namespace

Pager::Absent Pager::AbsentOf(uint64_t owner) {
  Absent absent;
  const std::lock_guard<std::mutex> lock(mutex_);
  const auto known = owners_.find(owner);
  if (known == owners_.end()) return absent;
  for (const Batch& batch : known->second.batches) {
    for (const Record& record : batch.records) {
      if (Waits(record)) absent.pages.push_back({{record.pid, record.va}, record.page});
      absent.busy |= record.state == PageState::kLeaving || record.state == PageState::kComing;
      absent.lost |= record.state == PageState::kLost;
    }
  }
  return absent;
}

absl::Status Pager::Recall(uint64_t owner, Prefetch prefetch, std::stop_token cancel) {
  const std::string context = absl::StrCat("recall of function ", owner);
  std::vector<VirtualPage> working_set;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    const auto known = owners_.find(owner);
    if (known == owners_.end()) return absl::OkStatus();
    known->second.recording_until = Clock::time_point::max();
    if (prefetch == Prefetch::kNone) {
      known->second.working_set.clear();
    } else {
      working_set = known->second.working_set;
    }
  }
  absl::Status status;
  if (!working_set.empty()) {
    const Absent absent = AbsentOf(owner);
    std::map<VirtualPage, PageId> where(absent.pages.begin(), absent.pages.end());
    std::vector<PageId> pages;
    for (const VirtualPage& page : working_set) {
      const auto found = where.find(page);
      if (found != where.end()) pages.push_back(found->second);
    }
    status = BringAll(owner, pages, /*drop_zeros=*/false, cancel);
  }
  if (status.ok() && prefetch == Prefetch::kAll) status = RecallRest(owner, cancel);
  const std::lock_guard<std::mutex> lock(mutex_);
  const auto known = owners_.find(owner);
  if (known != owners_.end()) known->second.recording_until = Clock::now() + config_.working_set_window;
  return Annotate(status, context);
}

absl::Status Pager::RecallRest(uint64_t owner, const std::stop_token& cancel) {
  for (;;) {
    const Absent absent = AbsentOf(owner);
    if (!absent.pages.empty()) {
      std::vector<PageId> pages;
      for (const auto& [where, page] : absent.pages) pages.push_back(page);
      MOULT_RETURN_IF_ERROR(BringAll(owner, pages, /*drop_zeros=*/true, cancel));
    } else if (absent.busy) {
      if (cancel.stop_requested()) return absl::CancelledError("cancelled");
      std::unique_lock<std::mutex> lock(mutex_);
      changed_.wait_for(lock, kBusyPause);
    } else if (absent.lost) {
      return LostPages();
    } else {
      return absl::OkStatus();
    }
  }
}

absl::StatusOr<bool> Pager::RecallSome(uint64_t owner, Clock::time_point until) {
  const Absent absent = AbsentOf(owner);
  if (absent.pages.empty() && absent.busy) {
    std::unique_lock<std::mutex> lock(mutex_);
    changed_.wait_for(lock, kBusyPause);
    return false;
  }
  if (absent.pages.empty() && absent.lost) return LostPages();
  PageBuffer buffer(kPiecePages);
  std::vector<PageId> pages;
  absl::Status bad;
  for (const auto& [where, page] : absent.pages) {
    pages.push_back(page);
    if (pages.size() < kPiecePages && page != absent.pages.back().second) continue;
    const std::vector<Record*> claimed = ClaimAbsent(owner, pages, /*drop_zeros=*/true);
    const absl::Status brought = claimed.empty() ? absl::OkStatus() : Bring(claimed, nullptr, &buffer);
    if (IsSilence(brought)) return brought;
    bad.Update(brought);
    pages.clear();
    // Those that are bad come first each time: what is behind them has its turn all the same.
    if (bad.ok() && Clock::now() >= until) break;
  }
  if (!bad.ok() && AbsentOf(owner).pages.size() == absent.pages.size()) return bad;
  return absent.pages.empty();
}

// Zeros that nobody has asked for are not made: without a record a page reads as zero anyway.
std::vector<Record*> Pager::ClaimAbsent(uint64_t owner, absl::Span<const PageId> pages, bool drop_zeros) {
  std::vector<Record*> claimed;
  std::vector<PageId> wake;
  std::vector<uint64_t> chunks;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    for (const PageId page : pages) {
      Record* const record = table_.Get(page);
      if (record == nullptr || record->batch == nullptr || record->batch->owner != owner || !Waits(*record))
        continue;
      if (drop_zeros && record->slot == Record::kZero) {
        if (record->state == PageState::kFailed || record->noted) wake.push_back(page);
        Forget(record, nullptr, &chunks);
      } else {
        record->state = PageState::kComing;
        claimed.push_back(record);
      }
    }
  }
  for (const PageId page : wake) Wake(page);
  Retire(chunks);
  return claimed;
}

absl::Status Pager::BringAll(uint64_t owner, absl::Span<const PageId> pages, bool drop_zeros,
                             const std::stop_token& cancel) {
  PageBuffer buffer(kPiecePages);
  constexpr auto kNotFailing = Clock::time_point::max();
  Clock::time_point failing_since = kNotFailing;
  std::vector<PageId> wanted(pages.begin(), pages.end());
  std::vector<PageId> bad;  // pieces with such pages, which are tried again when all behind them is here
  Clock::time_point bad_since = kNotFailing;
  absl::Status why_bad;
  for (size_t first = 0; first < wanted.size() || !bad.empty();) {
    if (cancel.stop_requested())
      return absl::CancelledError("cancelled; what is still out comes when it is touched");
    absl::Status status = why_bad;
    if (first < wanted.size()) {
      const auto piece = absl::MakeConstSpan(wanted).subspan(first, kPiecePages);
      const std::vector<Record*> claimed = ClaimAbsent(owner, piece, drop_zeros);
      status = claimed.empty() ? absl::OkStatus() : Bring(claimed, nullptr, &buffer);
      if (!status.ok() && !IsSilence(status)) {
        bad.insert(bad.end(), piece.begin(), piece.end());
        why_bad = std::exchange(status, absl::OkStatus());
      } else if (status.ok()) {
        failing_since = kNotFailing;
      }
      if (status.ok()) {
        first += kPiecePages;
        continue;
      }
    } else {
      wanted = std::exchange(bad, {});
      first = 0;
      bad_since = std::min(bad_since, Clock::now());
      failing_since = bad_since;
    }
    failing_since = std::min(failing_since, Clock::now());
    if (Clock::now() - failing_since >= config_.read_deadline) {
      return absl::DeadlineExceededError(
          absl::StrCat("what is still out comes when it is touched: ", status.message()));
    }
    std::this_thread::sleep_for(kReadPause);
  }
  return absl::OkStatus();
}

absl::Status Pager::RecallAll(std::stop_token cancel) {
  std::vector<uint64_t> owners;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    for (const auto& [owner, state] : owners_) owners.push_back(owner);
  }
  absl::Status status;
  for (const uint64_t owner : owners) status.Update(Recall(owner, Prefetch::kAll, cancel));
  return status;
}

}  // namespace moult::host
