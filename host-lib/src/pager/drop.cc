// SPDX-License-Identifier: Apache-2.0
#include "absl/strings/str_cat.h"
#include "moult/base/status.h"
#include "pager/pager.h"

namespace moult::host {

// Of those pages that are out (of `owner`, if given): true when none is busy, so that all is done.
bool Pager::DropPages(absl::Span<const PageId> pages, std::optional<uint64_t> owner) {
  std::vector<PoolSlot> slots;
  std::vector<PageId> wake;
  std::vector<uint64_t> chunks;
  bool busy = false;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    for (const PageId page : pages) {
      Record* const record = table_.Get(page);
      if (record == nullptr || record->batch == nullptr) continue;
      if (owner.has_value() && record->batch->owner != *owner) continue;
      if (record->state == PageState::kLeaving || record->state == PageState::kComing) {
        busy = true;
        continue;
      }
      // Whoever waits finds a hole when he tries again. A page that is kCopying stays where it is.
      if (record->state != PageState::kCopying) wake.push_back(page);
      Forget(record, &slots, &chunks);
    }
  }
  for (const PageId page : wake) Wake(page);
  if (!slots.empty()) config_.pool->Free(slots);
  Retire(chunks);
  return !busy;
}

absl::Status Pager::Drop(GuestRange range, std::chrono::milliseconds wait, std::optional<uint64_t> owner) {
  const auto first = table_.First(range);
  if (!first.ok()) return Annotate(first.status(), "drop");
  const Clock::time_point deadline = Clock::now() + wait;
  const uint64_t pages = range.length / kPage;
  bool all = true;
  for (uint64_t done = 0; done < pages; done += Chunk::kPages) {
    std::vector<PageId> piece;
    for (uint64_t i = done; i < std::min(done + Chunk::kPages, pages); ++i) piece.push_back(*first + i);
    bool dropped = DropPages(piece, owner);
    while (!dropped && Clock::now() < deadline) {
      WaitForChange();
      dropped = DropPages(piece, owner);
    }
    all &= dropped;
  }
  if (all) return absl::OkStatus();
  return absl::UnavailableError(absl::StrCat("drop ", range.Text(),
                                             ": pages of it are on their way from or to the pool ",
                                             config_.pool->name(), ", which does not answer"));
}

bool Pager::DropOwner(uint64_t owner) {
  std::vector<PageId> pages;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    const auto known = owners_.find(owner);
    if (known == owners_.end()) return true;
    for (const Batch& batch : known->second.batches) {
      for (const Record& record : batch.records) {
        if (record.state != PageState::kGone) pages.push_back(record.page);
      }
    }
  }
  DropPages(pages, owner);
  const std::lock_guard<std::mutex> lock(mutex_);
  const auto known = owners_.find(owner);
  if (known == owners_.end()) return true;
  // A page on its way, or an Offload that has not ended.
  if (!known->second.batches.empty()) return false;
  owners_.erase(known);
  return true;
}

void Pager::WaitForChange() {
  std::unique_lock<std::mutex> lock(mutex_);
  changed_.wait_for(lock, std::chrono::milliseconds(20));
}

// A lost page; it leaves that state.
void Pager::ResolveRecord(Record* record, Resolution resolution, std::vector<PoolSlot>* slots) {
  const PageId page = record->page;
  const uint64_t owner = record->batch->owner;
  if (resolution == Resolution::kPoison) {
    std::vector<uint64_t> chunks;  // EndHoles retires it.
    Forget(record, slots, &chunks);
    table_.Set(page, &hole_);
    return;
  }
  record->state = PageState::kOut;
  Count(owner, &PagerCounts::lost_pages, -1);
  if (resolution == Resolution::kZero && record->slot != Record::kZero) {
    slots->push_back(std::exchange(record->slot, Record::kZero));
    Count(owner, &PagerCounts::offloaded_bytes, -static_cast<int64_t>(kPage));
    Count(owner, &PagerCounts::zero_bytes, static_cast<int64_t>(kPage));
  }
}

absl::Status Pager::Resolve(uint64_t owner, Resolution resolution) {
  const std::string context = absl::StrCat("resolve lost pages of function ", owner);
  std::vector<PageId> pages;
  std::vector<PoolSlot> slots;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    const auto known = owners_.find(owner);
    if (known != owners_.end()) {
      for (const Batch& batch : known->second.batches) {
        for (const Record& record : batch.records) {
          if (record.state == PageState::kLost) pages.push_back(record.page);
        }
      }
    }
    if (pages.empty()) return absl::NotFoundError(context + ": it has none");
    if (resolution == Resolution::kPoison && !uffd_->can_poison()) {
      return absl::UnimplementedError(context +
                                      ": the host kernel cannot poison a page, Linux 6.6 can; take zeros");
    }
    for (const PageId page : pages) ResolveRecord(table_.Get(page), resolution, &slots);
    known->second.told_lost = false;
  }
  if (!slots.empty()) config_.pool->Free(slots);
  absl::Status status;
  if (resolution == Resolution::kPoison) {
    for (const PageId page : pages) {
      // Of a file, the page table still says write-protected where the page was, and poison goes only where
      // it says nothing.
      status.Update(uffd_->Unprotect(table_.Host(page, 1)));
      status.Update(uffd_->Poison(table_.Host(page, 1)));
    }
    EndHoles(pages);
  }
  for (const PageId page : pages) Wake(page);
  return Annotate(status, context);
}

}  // namespace moult::host
