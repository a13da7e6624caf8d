// SPDX-License-Identifier: Apache-2.0
//
// What threads in Serve do when there is no fault: of chunks of which a page was touched the rest is fetched and mapped,
// then the working set of a slot, then the digests of its pages are fetched, then all else, and what was touched first is
// written down for the next attach.
#include <algorithm>

#include "moult/protocol/limits.h"
#include "remote/remote_pager.h"

namespace moult::host {

using image::kPagesChunk;

namespace {

constexpr size_t kPrefetchChunks = RemotePager::kBufferPages * kPage / kPagesChunk;  // chunks at a time
constexpr uint64_t kDigestsAtOnce = 32;                                              // chunks
constexpr uint64_t kLooksAtOnce = 64;                                                // chunks
constexpr std::chrono::seconds kAfterPrefetchFailure{1};
constexpr std::chrono::seconds kPrefetchWithin{2};

}  // namespace

bool RemotePager::WantsDigests(const Slot& slot) const {
  return slot.pages->by_page() && slot.digests < slot.pages->chunks();
}

// When something is to be fetched of it that nobody waits for.
RemotePager::Clock::time_point RemotePager::NextPrefetch(const Slot& slot) const {
  if (slot.fate != Fate::kServed) return Clock::time_point::max();
  if (!slot.begun.empty()) return slot.rest_at;
  // Memory that nobody shares is not spent on what may never be touched.
  const bool behind = config_.prefetch_bytes_per_s > 0 && slot.pages->shared() && slot.behind < slot.pages->chunks();
  return !slot.urgent.empty() || WantsDigests(slot) || behind ? slot.next_at : Clock::time_point::max();
}

RemotePager::Clock::time_point RemotePager::NextStep() const {
  const bool may_prefetch = Prefetchers() < MostPrefetchers();
  Clock::time_point next = watch_at_;
  for (const auto& [base, slot] : slots_) {
    if (slot->recording) next = std::min(next, slot->record_until);
    if (may_prefetch) next = std::min(next, NextPrefetch(*slot));
  }
  return next;
}

int RemotePager::WaitMs() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  const Clock::time_point next = NextStep();
  if (next == Clock::time_point::max()) return -1;
  const Clock::time_point now = Clock::now();
  if (next <= now) return 0;
  const auto wait = std::chrono::ceil<std::chrono::milliseconds>(next - now).count();
  return static_cast<int>(std::min<int64_t>(wait, 60'000));
}

void RemotePager::Step(PageBuffer* buffer) {
  std::unique_lock<std::mutex> lock(mutex_);
  const Clock::time_point now = Clock::now();
  for (const auto& [base, entry] : slots_) {
    const SlotPtr slot = entry;
    if (slot->recording && slot->record_until <= now) {
      slot->recording = false;
      if (slot->touched.empty()) continue;
      std::vector<uint64_t> set = slot->known;
      set.insert(set.end(), slot->touched.begin(), slot->touched.end());
      lock.unlock();
      slot->pages->SetWorkingSet(set);
      return;
    }
    if (NextPrefetch(*slot) > now || Prefetchers() >= MostPrefetchers()) continue;
    if (!slot->begun.empty() && slot->rest_at <= now) return FetchRest(slot, buffer, &lock);
    if (slot->urgent.empty() && WantsDigests(*slot)) return FetchDigests(slot, &lock);
    return PrefetchSome(slot, buffer, &lock);
  }
}

// Chunks that this thread fetches now. What is there of the working set is mapped.
std::vector<uint64_t> RemotePager::TakeChunks(Slot& slot, bool* urgent) {
  std::vector<uint64_t> chunks;
  *urgent = !slot.urgent.empty();
  while (chunks.size() < kPrefetchChunks && !slot.urgent.empty()) {
    const uint64_t chunk = slot.urgent.front();
    slot.urgent.pop_front();
    if (slot.busy[chunk]) continue;
    if (!slot.pages->Has(chunk)) {
      chunks.push_back(chunk);
      continue;
    }
    const uint64_t mapped = uffd_->Continue(slot.chunk(chunk));
    slot.bytes.cache += mapped;
    stats_.hit_bytes += mapped;
  }
  // Not all at once: faults wait for the lock.
  const uint64_t end = std::min(slot.behind + kLooksAtOnce, slot.pages->chunks());
  while (!*urgent && chunks.size() < kPrefetchChunks && slot.behind < end) {
    const uint64_t chunk = slot.behind++;
    if (!slot.busy[chunk] && !slot.pages->Has(chunk)) chunks.push_back(chunk);
  }
  return chunks;
}

// A page that the fault of another thread wants meanwhile is fetched by that one as well: it does not wait for the rest.
void RemotePager::FetchRest(const SlotPtr& slot, PageBuffer* buffer, std::unique_lock<std::mutex>* lock) {
  const uint64_t chunk = slot->begun.front();
  slot->begun.pop_front();
  PageSet rest = slot->pages->Missing(chunk);
  const uint64_t first = chunk * kPagesChunk / kPage;
  for (auto page = slot->alone.lower_bound(first); page != slot->alone.end() && *page - first < rest.size(); ++page) rest.reset(*page - first);
  if (slot->busy[chunk] || rest.none()) return;
  Begin({slot, {chunk}, nullptr});
  lock->unlock();
  const RemoteRetry retry{.deadline = kPrefetchWithin, .attempt = kPrefetchWithin, .stop = &stopping_};
  const absl::Status read = slot->pages->ReadPages(chunk, rest, buffer, retry);
  const bool kept = read.ok() && slot->pages->KeepPages(chunk, rest, buffer->page(0)).ok();
  lock->lock();
  busy_.erase(config_.threads->me());
  slot->busy[chunk] = false;
  if (!read.ok()) {
    ++stats_.prefetch_failures;
    slot->rest_at = Clock::now() + kAfterPrefetchFailure;
    return;
  }
  slot->bytes.pool += rest.count() * kPage;
  stats_.fetched_bytes += rest.count() * kPage;
  if (!Live(*slot)) return;
  absl::Status put;  // What could not be mapped is when it is touched.
  Put(*slot, chunk, rest, buffer->page(0), kept, &put);
}

void RemotePager::FetchDigests(const SlotPtr& slot, std::unique_lock<std::mutex>* lock) {
  const uint64_t first = slot->digests;
  const uint64_t count = std::min(kDigestsAtOnce, slot->pages->chunks() - first);
  // Also where they do not come: who waits for a page asks for those of its chunk.
  slot->digests += count;
  Begin({slot, {}, nullptr});
  lock->unlock();
  const RemoteRetry retry{.deadline = kPrefetchWithin, .attempt = kPrefetchWithin, .stop = &stopping_};
  const absl::Status read = slot->pages->FetchDigests(first, count, retry);
  lock->lock();
  busy_.erase(config_.threads->me());
  if (read.ok()) return;
  ++stats_.prefetch_failures;
  slot->next_at = Clock::now() + kAfterPrefetchFailure;
}

void RemotePager::PrefetchSome(const SlotPtr& slot, PageBuffer* buffer, std::unique_lock<std::mutex>* lock) {
  bool urgent = false;
  const std::vector<uint64_t> chunks = TakeChunks(*slot, &urgent);
  if (chunks.empty()) return;
  Begin({slot, chunks, nullptr});
  lock->unlock();
  const RemoteRetry retry{.deadline = kPrefetchWithin, .attempt = kPrefetchWithin, .stop = &stopping_};
  const absl::Status read = slot->pages->Read(chunks, buffer, retry);
  std::vector<bool> kept(chunks.size());
  uint64_t bytes = 0;
  for (size_t i = 0; read.ok() && i < chunks.size(); ++i) {
    kept[i] = slot->pages->Keep(chunks[i], buffer->page(i * kPagesChunk / kPage)).ok();
    bytes += slot->pages->ChunkBytes(chunks[i]);
  }
  lock->lock();
  busy_.erase(config_.threads->me());
  const Clock::time_point now = Clock::now();
  slot->bytes.pool += bytes;
  stats_.prefetched_bytes += bytes;
  stats_.prefetch_failures += read.ok() ? 0 : 1;
  for (size_t i = 0; i < chunks.size(); ++i) {
    slot->busy[chunks[i]] = false;
    if (!Live(*slot)) continue;
    if (read.ok() && urgent) {
      // Also what the cache has no room for: a fault would fetch it a second time.
      absl::Status put;  // What could not be mapped is when it is touched.
      Put(*slot, chunks[i], slot->ChunkPages(chunks[i]), buffer->page(i * kPagesChunk / kPage), kept[i], &put);
    } else if (read.ok() && !kept[i]) {
      // Memory that nobody shares is not spent on it.
      stats_.unkept_bytes += slot->pages->Missing(chunks[i]).count() * kPage;
    }
    // A fault that waited for it makes its own try, with a longer deadline.
    uffd_->Wake(slot->chunk(chunks[i]));
  }
  if (!read.ok()) {
    slot->next_at = now + kAfterPrefetchFailure;
  } else if (!urgent) {
    const double seconds = static_cast<double>(bytes) / static_cast<double>(config_.prefetch_bytes_per_s);
    slot->next_at = std::max(now, slot->next_at) +
                    std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(seconds));
    if (std::find(kept.begin(), kept.end(), false) != kept.end()) slot->behind = slot->pages->chunks();
  }
}

}  // namespace moult::host
