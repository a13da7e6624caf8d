// SPDX-License-Identifier: Apache-2.0
#include "absl/strings/str_cat.h"
#include "moult/base/status.h"
#include "pager/pager.h"

namespace moult::host {

// Of those pages that are out (of `owner`, if given). `busy`: those that stay, as another call has them.
void Pager::DropPages(absl::Span<const PageId> pages, std::optional<uint64_t> owner, std::vector<PageId>* busy) {
  std::vector<PoolSlot> slots;
  std::vector<PageId> wake;
  std::vector<uint64_t> chunks;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    for (const PageId page : pages) {
      Record* const record = table_.Get(page);
      if (record == nullptr || record->batch == nullptr) continue;
      if (owner.has_value() && record->batch->owner != *owner) continue;
      if (record->state == PageState::kLeaving || record->state == PageState::kComing) {
        if (busy != nullptr) busy->push_back(page);
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
}

absl::StatusOr<std::vector<GuestPhys>> Pager::Drop(GuestRange range) {
  const auto first = table_.First(range);
  if (!first.ok()) return Annotate(first.status(), "drop");
  const uint64_t pages = range.length / kPage;
  std::vector<PageId> busy;
  for (uint64_t done = 0; done < pages; done += Chunk::kPages) {
    std::vector<PageId> piece;
    for (uint64_t i = done; i < std::min(done + Chunk::kPages, pages); ++i) piece.push_back(*first + i);
    DropPages(piece, std::nullopt, &busy);
  }
  std::vector<GuestPhys> left;
  for (const PageId page : busy) left.push_back(table_.Pages(page, 1).start);
  return left;
}

// Of which the table may know some no more by the time that the caller looks.
std::vector<PageId> Pager::PagesOf(uint64_t owner) {
  std::vector<PageId> pages;
  const std::lock_guard<std::mutex> lock(mutex_);
  const auto known = owners_.find(owner);
  if (known == owners_.end()) return pages;
  for (const Batch& batch : known->second.batches) {
    for (const Record& record : batch.records) {
      if (record.state != PageState::kGone) pages.push_back(record.page);
    }
  }
  return pages;
}

void Pager::DropUnwanted(uint64_t owner, const std::function<bool(GuestPhys)>& unwanted) {
  std::vector<PageId> pages = PagesOf(owner);
  std::erase_if(pages, [&](PageId page) { return !unwanted(table_.Pages(page, 1).start); });
  // In pieces, between which others get the lock.
  for (size_t done = 0; done < pages.size(); done += Chunk::kPages)
    DropPages(absl::MakeSpan(pages).subspan(done, Chunk::kPages), owner);
}

bool Pager::DropOwner(uint64_t owner) {
  DropPages(PagesOf(owner), owner);
  const std::lock_guard<std::mutex> lock(mutex_);
  const auto known = owners_.find(owner);
  if (known == owners_.end()) return true;
  // A page on its way, or an Offload that has not ended.
  if (!known->second.batches.empty()) return false;
  owners_.erase(known);
  return true;
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
  if (resolution == Resolution::kZero) MakeZero(record, slots);
}

// One that is out.
void Pager::MakeZero(Record* record, std::vector<PoolSlot>* slots) {
  if (record->slot == Record::kZero) return;
  slots->push_back(std::exchange(record->slot, Record::kZero));
  Count(record->batch->owner, &PagerCounts::zeroed_pages, 1);
  Count(record->batch->owner, &PagerCounts::offloaded_bytes, -static_cast<int64_t>(kPage));
  Count(record->batch->owner, &PagerCounts::zero_bytes, static_cast<int64_t>(kPage));
}

// After a read of one of its pages that failed, under the lock.
bool Pager::GivesZeros(Owner* owner, PageId page) {
  if (!owner->ended) return false;
  const Clock::time_point now = Clock::now();
  const auto within = std::min(config_.ended_deadline, config_.read_deadline);
  if (!owner->zeros_from.has_value()) owner->zeros_from = now + within;
  if (now >= *owner->zeros_from) return true;
  // One that is damaged, while others come.
  const auto failed = failures_.find(page);
  return failed != failures_.end() && now - failed->second.first >= within;
}

void Pager::End(uint64_t owner) {
  std::vector<PageId> wake;
  std::vector<PoolSlot> slots;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    const auto known = owners_.find(owner);
    if (known == owners_.end() || known->second.ended) return;
    Owner& state = known->second;
    state.ended = true;
    state.zeros_given = false;
    for (Batch& batch : state.batches) {
      for (Record& record : batch.records) {
        if (record.state == PageState::kLost) {
          ResolveRecord(&record, Resolution::kZero, &slots);
          state.zeros_from = Clock::time_point::min();
          state.zeros_given = true;
          wake.push_back(record.page);
        } else if (record.state == PageState::kFailed) {
          // Tried again now, and the last time when the time of all is up.
          const auto failed = failures_.find(record.page);
          if (failed != failures_.end()) {
            const auto from = failed->second.first + std::min(config_.ended_deadline, config_.read_deadline);
            state.zeros_from = std::min(state.zeros_from.value_or(from), from);
            failed->second.next = Clock::now();
          }
        }
      }
    }
    state.told_lost = false;
    ArmTimer();
  }
  if (!slots.empty()) config_.pool->Free(slots);
  for (const PageId page : wake) Wake(page);
}

bool Pager::Revive(uint64_t owner) {
  const std::lock_guard<std::mutex> lock(mutex_);
  const auto known = owners_.find(owner);
  if (known == owners_.end() || !known->second.ended) return true;
  if (known->second.zeros_given) return false;
  known->second.ended = false;
  known->second.zeros_from.reset();
  return true;
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
    if (resolution == Resolution::kZero) {
      // So its function has been killed: the next page need not wait.
      known->second.ended = known->second.zeros_given = true;
      known->second.zeros_from = Clock::time_point::min();
    }
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
