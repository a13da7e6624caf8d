// SPDX-License-Identifier: Apache-2.0
#include <poll.h>
#include <sys/epoll.h>
#include <unistd.h>

#include <algorithm>
#include <bit>

#include "absl/strings/str_cat.h"
#include "moult/base/status.h"
#include "moult/protocol/limits.h"
#include "pager/events.h"
#include "remote/remote_pager.h"

namespace moult::host {

using image::kPagesChunk;

namespace {

constexpr uint64_t kPagesOfChunk = kPagesChunk / kPage;

}  // namespace

void RemotePager::Serve() {
  const ServingThreads::Serving serving(config_.threads.get());
  PageBuffer buffer(kBufferPages);
  do {
    pollfd ready{fd(), POLLIN, 0};
    (void)poll(&ready, 1, WaitMs());
  } while (ServeReady(&buffer));
}

bool RemotePager::ServeReady(PageBuffer* buffer) {
  TakeOver();
  epoll_event event;
  if (epoll_wait(epoll_.get(), &event, 1, 0) <= 0) {
    Step(buffer);
    return true;
  }
  // One at a time: the caller's loop has others to serve.
  switch (Event(event.data.u32)) {
    case Event::kStop:
      return false;
    case Event::kTimer: {
      uint64_t count;
      const std::lock_guard<std::mutex> lock(mutex_);
      if (read(wake_.get(), &count, sizeof(count)) > 0) watcher_ = config_.threads->me();
      break;
    }
    case Event::kFault:
      for (const Uffd::Fault& fault : uffd_->Read(1)) ServeFault(fault, buffer);
      break;
    case Event::kJobs:
      config_.threads->RunJobs();
      break;
  }
  return true;
}

// A slot that is not served any more: true when the fault is dealt with.
bool RemotePager::ServeWithout(Slot& slot, const Uffd::Fault& fault) {
  const absl::Span<std::byte> page{fault.page, kPage};
  switch (slot.fate) {
    case Fate::kServed:
      return false;
    case Fate::kLost:
      // What the file has is as good as ever.
      if (fault.minor) return false;
      return true;
    case Fate::kZero:
      (void)uffd_->Zero(page);
      break;
    case Fate::kPoison:
      (void)uffd_->Poison(page);
      break;
  }
  uffd_->Wake(page);
  return true;
}

void RemotePager::ServeFault(const Uffd::Fault& fault, PageBuffer* buffer) {
  const Clock::time_point start = Clock::now();
  Lost lost;
  {
    std::unique_lock<std::mutex> lock(mutex_);
    const SlotPtr slot = Find(fault.page);
    if (slot == nullptr) return uffd_->Wake({fault.page, kPage});
    if (ServeWithout(*slot, fault)) return;
    const auto page = static_cast<uint64_t>(fault.page - slot->base) / kPage;
    const uint64_t chunk = page / kPagesOfChunk;
    Touched(*slot, chunk);
    if (fault.minor || slot->pages->HasPage(page)) {
      ++stats_.hits;
      // Of one that is being filled the page that is wanted: each hole would cost a call.
      const PageSet there = slot->pages->Has(chunk) ? slot->ChunkPages(chunk) : PageSet().set(page % kPagesOfChunk);
      const uint64_t mapped = Put(*slot, chunk, there, nullptr, /*kept=*/true, nullptr);
      slot->bytes.cache += mapped;
      stats_.hit_bytes += mapped;
    } else if (slot->pages->by_page() ? slot->alone.contains(page) : slot->busy[chunk]) {
      return;  // Who fetches it maps it, or wakes.
    } else {
      const absl::Status read = Fetch(slot, chunk, fault.page, buffer, &lock);
      if (!Live(*slot) || (!read.ok() && stopping_)) return;
      if (!read.ok()) Lose(*slot, fault.page, read, &lost);
    }
    if (lost.page == nullptr) {
      // Also where that one page could not be mapped: the access is made again.
      uffd_->Wake({fault.page, kPage});
      ++stats_.faults;
      const auto took = std::chrono::duration_cast<std::chrono::microseconds>(Clock::now() - start).count();
      ++stats_.fault_us[std::min<size_t>(std::bit_width(static_cast<uint64_t>(took)),
                                         stats_.fault_us.size() - 1)];
    }
  }
  Tell(lost);
}

// Fetches a page that was touched, or its chunk, and maps what it got if the slot is still there. The lock is not held meanwhile.
absl::Status RemotePager::Fetch(const SlotPtr& slot, uint64_t chunk, const std::byte* page, PageBuffer* buffer,
                                std::unique_lock<std::mutex>* lock) {
  RemotePages& pages = *slot->pages;
  const bool alone = pages.by_page();
  const auto number = static_cast<uint64_t>(page - slot->base) / kPage;
  const PageSet wanted = alone ? PageSet().set(number % kPagesOfChunk) : slot->ChunkPages(chunk);
  Begin({slot, alone ? std::vector<uint64_t>() : std::vector<uint64_t>{chunk}, page});
  lock->unlock();
  RemoteRetry retry = config_.retry;
  retry.stop = &stopping_;
  const absl::Status read = alone ? pages.ReadPages(chunk, wanted, buffer, retry) : pages.Read({&chunk, 1}, buffer, retry);
  const bool kept = read.ok() && pages.KeepPages(chunk, wanted, buffer->page(0)).ok();
  lock->lock();
  busy_.erase(config_.threads->me());
  if (alone) {
    slot->alone.erase(number);
  } else {
    slot->busy[chunk] = false;
  }
  if (!read.ok() || !Live(*slot)) return read;
  absl::Status put;  // One that failed is tried again by the access.
  Put(*slot, chunk, wanted, buffer->page(0), kept, &put);
  slot->bytes.pool += wanted.count() * kPage;
  stats_.fetched_bytes += wanted.count() * kPage;
  if (alone && !absl::c_linear_search(slot->begun, chunk)) slot->begun.push_back(chunk);
  return read;
}

// Maps pages of a chunk: from the file, or, when that could not take them, from `content`, where each has its place, for
// this slot alone.
uint64_t RemotePager::Put(Slot& slot, uint64_t chunk, const PageSet& pages, const std::byte* content, bool kept,
                          absl::Status* status) {
  uint64_t mapped = 0;
  // Some of them the file may have taken before it was full.
  if (!kept) stats_.unkept_bytes += (slot.pages->Missing(chunk) & pages).count() * kPage;
  EachRun(pages, [&](size_t first, size_t count) {
    const absl::Span<std::byte> part = slot.chunk(chunk).subspan(first * kPage, count * kPage);
    mapped += uffd_->Continue(part);
    if (kept) return;
    const absl::Status copied = uffd_->Copy(part, content + first * kPage);
    if (!copied.ok()) uffd_->Wake(part);
    status->Update(copied);
  });
  return mapped;
}

void RemotePager::Lose(Slot& slot, const std::byte* page, const absl::Status& why, Lost* lost) {
  if (slot.fate != Fate::kServed) return;
  slot.fate = Fate::kLost;
  slot.told = slot.users;
  slot.told.insert(0);
  ++stats_.lost_slots;
  lost->functions.assign(slot.told.begin(), slot.told.end());
  lost->page = page;
  lost->why = Annotate(why, absl::StrCat("page at offset ", page - slot.base, " of a template is lost"));
}

void RemotePager::Tell(const Lost& lost) const {
  for (const uint64_t function : lost.functions) {
    if (config_.lost) config_.lost(function, lost.page, lost.why);
  }
}

void RemotePager::Touched(Slot& slot, uint64_t chunk) {
  if (!slot.recording || slot.in_set[chunk]) return;
  slot.in_set[chunk] = true;
  slot.touched.push_back(chunk);
}

absl::Status RemotePager::Populate(absl::Span<const std::byte> range) {
  PageBuffer buffer(kPagesChunk / kPage);
  std::unique_lock<std::mutex> lock(mutex_);
  const SlotPtr slot = Find(range.data());
  if (slot == nullptr || range.empty()) return absl::OkStatus();
  const auto first = static_cast<uint64_t>(range.data() - slot->base) / kPagesChunk;
  const auto last =
      std::min((static_cast<uint64_t>(range.data() - slot->base) + range.size() - 1) / kPagesChunk,
               slot->pages->chunks() - 1);
  for (uint64_t chunk = first; chunk <= last; ++chunk) {
    bool kept = true;
    if (!slot->pages->Has(chunk)) {
      lock.unlock();
      // Another thread may fetch it, too: both bring the same.
      MOULT_RETURN_IF_ERROR(slot->pages->Read({&chunk, 1}, &buffer, config_.retry));
      kept = slot->pages->Keep(chunk, buffer.page(0)).ok();
      lock.lock();
      if (!Live(*slot)) return absl::AbortedError("the template is not shown any more");
      slot->bytes.pool += slot->pages->ChunkBytes(chunk);
      stats_.fetched_bytes += slot->pages->ChunkBytes(chunk);
    }
    absl::Status put;
    Put(*slot, chunk, slot->ChunkPages(chunk), buffer.page(0), kept, &put);
    MOULT_RETURN_IF_ERROR(put);
  }
  return absl::OkStatus();
}

}  // namespace moult::host
