// SPDX-License-Identifier: Apache-2.0
#include <sys/mman.h>

#include <algorithm>

#include "moult/base/status.h"
#include "pager/pager.h"

namespace moult::host {

absl::Status Pager::Bring(absl::Span<Record* const> records, Record* touched, PageBuffer* buffer, Busy* busy) {
  std::vector<bool> done(records.size());
  const absl::Status status = Fill(records, touched, buffer, &done);
  Settle(records, touched, done, status, busy);
  return status;
}

// The end of a claim: what is `done` is forgotten.
void Pager::Settle(absl::Span<Record* const> records, Record* touched, const std::vector<bool>& done,
                   const absl::Status& why, Busy* busy) {
  std::vector<PoolSlot> slots;
  std::vector<PageId> wake;
  std::vector<uint64_t> chunks;
  slots.reserve(records.size());
  wake.reserve(records.size());
  chunks.reserve(records.size());
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    for (size_t i = 0; i < records.size(); ++i) {
      Record* const record = records[i];
      const bool noted = std::exchange(record->noted, false);
      if (!done[i]) {
        record->state = PageState::kOut;
        Owner& owner = owners_.find(record->batch->owner)->second;
        if (record == touched && record->slot != Record::kZero && GivesZeros(&owner, record->page)) {
          if (!failures_.empty()) failures_.erase(record->page);
          owner.zeros_given = true;
          if (!std::exchange(owner.told_zeros, true)) losses_.push_back(LossOf(*record, why, Loss::kZeroed));
          MakeZero(record, &slots);
          wake.push_back(record->page);
          continue;
        }
        if (record == touched) {
          Fail(record, why);  // Who waits goes on waiting.
          continue;
        }
      }
      if (noted) wake.push_back(record->page);
      if (!done[i]) continue;
      Owner& owner = owners_.find(record->batch->owner)->second;
      if (record->slot != Record::kZero && owner.zeros_from > Clock::time_point::min()) owner.zeros_from.reset();
      if (touched != nullptr && Recording(owner)) owner.working_set.push_back({record->pid, record->va});
      Count(record->batch->owner,
            touched != nullptr ? &PagerCounts::fault_pages : &PagerCounts::prefetched_pages, 1);
      Forget(record, &slots, &chunks);
    }
    if (busy != nullptr) {
      busy->claimed.clear();
      busy->touched = nullptr;
      busy->wake.insert(busy->wake.end(), wake.begin(), wake.end());
    }
  }
  changed_.notify_all();
  for (const PageId page : wake) Wake(page);
  if (!slots.empty()) config_.pool->Free(slots);
  Retire(chunks);
}

// One read for all; where that fails, page by page, and if somebody waits for one, that one alone.
absl::Status Pager::Fill(absl::Span<Record* const> records, Record* touched, PageBuffer* buffer,
                         std::vector<bool>* done) {
  std::vector<size_t> stored;  // indices of `records`, in the order of the buffer
  std::vector<PoolSlot> slots;
  absl::Status status;
  for (size_t i = 0; i < records.size(); ++i) {
    if (records[i]->slot == Record::kZero) {
      const absl::Status zeroed = uffd_->Zero(table_.Host(records[i]->page, 1));
      (*done)[i] = zeroed.ok();
      status.Update(zeroed);
    } else {
      stored.push_back(i);
      slots.push_back(records[i]->slot);
    }
  }
  if (stored.empty()) return status;
  const absl::Status read = config_.pool->Read(slots, buffer->first(slots.size()));
  if (read.ok()) {
    status.Update(CopyIn(records, stored, touched, buffer, done));
    return status;
  }
  // A pool that does not answer is not asked for each page.
  if (stored.size() == 1 || absl::IsUnavailable(read)) return read;
  for (const size_t i : stored) {
    if (touched != nullptr && records[i] != touched) continue;
    absl::Status one = config_.pool->Read({&records[i]->slot, 1}, buffer->first(1));
    if (one.ok()) one = uffd_->Copy(table_.Host(records[i]->page, 1), buffer->page(0));
    (*done)[i] = one.ok();
    status.Update(one);
  }
  return status;
}

// What lies side by side in guest RAM goes in one call, what somebody waits for first.
absl::Status Pager::CopyIn(absl::Span<Record* const> records, absl::Span<const size_t> stored,
                           const Record* touched, PageBuffer* buffer, std::vector<bool>* done) {
  struct Group {
    size_t first;  // of `stored`, and so of the buffer
    size_t count;
  };
  std::vector<Group> groups;
  for (size_t i = 0; i < stored.size(); ++i) {
    const PageId page = records[stored[i]]->page;
    if (!groups.empty()) {
      const PageId last = records[stored[i - 1]]->page;
      if (last + 1 == page && table_.SameRegion(last, page)) {
        ++groups.back().count;
        continue;
      }
    }
    groups.push_back({i, 1});
  }
  const auto awaited = std::find_if(groups.begin(), groups.end(), [&](const Group& group) {
    const auto part = stored.subspan(group.first, group.count);
    return std::any_of(part.begin(), part.end(), [&](size_t i) { return records[i] == touched; });
  });
  if (awaited != groups.end()) std::iter_swap(groups.begin(), awaited);
  absl::Status status;
  for (const Group& group : groups) {
    const absl::Status copied =
        uffd_->Copy(table_.Host(records[stored[group.first]]->page, group.count), buffer->page(group.first));
    // A part may be there; it is not copied over when the rest is tried again.
    for (const size_t i : stored.subspan(group.first, group.count)) (*done)[i] = copied.ok();
    status.Update(copied);
  }
  return status;
}

void Pager::Forget(Record* record, std::vector<PoolSlot>* slots, std::vector<uint64_t>* chunks) {
  Batch* const batch = record->batch;
  const uint64_t chunk = PageTable::ChunkOf(record->page);
  if (record->state != PageState::kCopying) {
    const bool zero = record->slot == Record::kZero;
    Count(batch->owner, zero ? &PagerCounts::zero_bytes : &PagerCounts::offloaded_bytes,
          -static_cast<int64_t>(kPage));
    if (!zero) slots->push_back(record->slot);
  }
  if (record->state == PageState::kLost) {
    Count(batch->owner, &PagerCounts::lost_pages, -1);
    // The next one that it loses is news again.
    Owner& owner = owners_.find(batch->owner)->second;
    if (owner.counts.lost_pages == 0) owner.told_lost = false;
  }
  if (!failures_.empty()) failures_.erase(record->page);
  record->state = PageState::kGone;
  table_.Set(record->page, nullptr);
  if (table_.chunk(chunk)->records == 0) chunks->push_back(chunk);
  Unref(batch);
}

void Pager::Unref(Batch* batch) {
  if (--batch->live > 0) return;
  auto& batches = owners_.find(batch->owner)->second.batches;
  batches.remove_if([&](const Batch& each) { return &each == batch; });
}

absl::Status Pager::FillHoles(PageId first, uint64_t count) {
  const absl::Span<std::byte> host = table_.Host(first, count);
  std::vector<unsigned char> there(count);
  if (mincore(host.data(), host.size(), there.data()) != 0) return ErrnoStatus("mincore");
  for (uint64_t i = 0; i < count;) {
    uint64_t end = i + 1;
    while (end < count && (there[end] & 1) == (there[i] & 1)) ++end;
    if ((there[i] & 1) == 0) {
      // What is swapped out looks like a hole, and is left alone by the kernel.
      const absl::Status status = uffd_->Zero(host.subspan(i * kPage, (end - i) * kPage));
      if (!status.ok() && !absl::IsNotFound(status)) return status;
    }
    i = end;
  }
  return absl::OkStatus();
}

void Pager::EndHoles(absl::Span<const PageId> pages, Busy* busy) {
  std::vector<PageId> wake;
  std::vector<uint64_t> chunks;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    for (const PageId page : pages) {
      if (table_.Get(page) == &noted_hole_) wake.push_back(page);
      table_.Set(page, nullptr);
      if (table_.chunk(PageTable::ChunkOf(page))->records == 0) chunks.push_back(PageTable::ChunkOf(page));
    }
    if (busy != nullptr) {
      busy->hole.reset();
      busy->wake.insert(busy->wake.end(), wake.begin(), wake.end());
    }
  }
  changed_.notify_all();
  for (const PageId page : wake) Wake(page);
  Retire(chunks);
}

}  // namespace moult::host
