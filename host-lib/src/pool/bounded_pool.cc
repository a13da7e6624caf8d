// SPDX-License-Identifier: Apache-2.0
#include "pool/bounded_pool.h"

#include <algorithm>
#include <cstring>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "memory/guest_memory.h"
#include "moult/base/status.h"
#include "pager/page_buffer.h"

namespace moult::host {
namespace {

constexpr size_t kMostLate = 16;  // reads whose pages are kept for who asks again

}  // namespace

// Jobs hold the pool, and have memory of their own: they may outlive who wanted them.
class BoundedPool::ReadJob final : public ServingThreads::Job {
 public:
  ReadJob(std::shared_ptr<PagePool> pool, absl::Span<const PoolSlot> slots)
      : slots_(slots.begin(), slots.end()), pages_(slots.size() * kPage), pool_(std::move(pool)) {}
  const std::vector<PoolSlot>& slots() const { return slots_; }
  const std::byte* page(size_t i) const { return pages_.data() + i * kPage; }

 private:
  absl::Status Run() override { return pool_->Read(slots_, absl::MakeSpan(pages_)); }

  const std::vector<PoolSlot> slots_;
  std::vector<std::byte> pages_;
  const std::shared_ptr<PagePool> pool_;
};

class BoundedPool::WriteJob final : public ServingThreads::Job {
 public:
  WriteJob(std::shared_ptr<PagePool> pool, std::shared_ptr<PageBuffer> pages, size_t count, std::shared_ptr<std::atomic<uint64_t>> used)
      : slots_(count), used_(std::move(used)), pages_(std::move(pages)), pool_(std::move(pool)) {}
  const std::vector<PoolSlot>& slots() const { return slots_; }

 private:
  absl::Status Run() override {
    MOULT_RETURN_IF_ERROR(pool_->Write(pages_->first(slots_.size()), absl::MakeSpan(slots_)));
    *used_ += slots_.size();
    return absl::OkStatus();
  }
  // Nobody knows of these slots.
  void Unwanted() override {
    pool_->Free(slots_);
    *used_ -= slots_.size();
  }

  std::vector<PoolSlot> slots_;
  const std::shared_ptr<std::atomic<uint64_t>> used_;
  const std::shared_ptr<PageBuffer> pages_;
  const std::shared_ptr<PagePool> pool_;
};

class BoundedPool::FreeJob final : public ServingThreads::Job {
 public:
  FreeJob(std::shared_ptr<PagePool> pool, absl::Span<const PoolSlot> slots, std::shared_ptr<std::atomic<uint64_t>> used)
      : slots_(slots.begin(), slots.end()), used_(std::move(used)), pool_(std::move(pool)) {}

 private:
  absl::Status Run() override {
    pool_->Free(slots_);
    freed_ = true;
    return absl::OkStatus();
  }
  void Ended() override {
    if (!freed_) *used_ += slots_.size();
  }

  const std::vector<PoolSlot> slots_;
  const std::shared_ptr<std::atomic<uint64_t>> used_;
  const std::shared_ptr<PagePool> pool_;
  std::atomic<bool> freed_ = false;
};

class BoundedPool::Begun final : public PagePool::Writing {
 public:
  Begun(const BoundedPool* pool, std::shared_ptr<WriteJob> job)
      : pool_(*pool), job_(std::move(job)), begun_(pool_.threads_->Begin(job_, pool_.WriteCall())) {}
  absl::Status Await(absl::Span<PoolSlot> slots) override {
    MOULT_RETURN_IF_ERROR(begun_);
    MOULT_RETURN_IF_ERROR(pool_.threads_->Await(job_, pool_.WriteCall()));
    std::copy(job_->slots().begin(), job_->slots().end(), slots.begin());
    return absl::OkStatus();
  }

 private:
  const BoundedPool& pool_;
  const std::shared_ptr<WriteJob> job_;
  const absl::Status begun_;
};

BoundedPool::BoundedPool(std::shared_ptr<PagePool> pool, std::shared_ptr<ServingThreads> threads, Limits limits)
    : pool_(std::move(pool)), threads_(std::move(threads)), limits_(limits), who_(absl::StrCat("pool ", pool_->name())) {}

// Whether a read of these slots is under way, or was: then its outcome.
bool BoundedPool::TakeLate(absl::Span<const PoolSlot> slots, absl::Span<std::byte> pages, absl::Status* result) {
  const std::lock_guard<std::mutex> lock(mutex_);
  for (auto at = late_.begin(); at != late_.end(); ++at) {
    std::vector<size_t> places;
    for (const PoolSlot slot : slots) {
      const auto found = std::find(at->kept.begin(), at->kept.end(), slot);
      if (found == at->kept.end()) break;
      places.push_back(static_cast<size_t>(found - at->kept.begin()));
    }
    if (places.size() != slots.size()) continue;
    const std::optional<absl::Status> ended = threads_->Result(*at->job);
    if (!ended.has_value()) {
      const auto age = std::chrono::duration_cast<std::chrono::milliseconds>(std::chrono::steady_clock::now() - at->begun);
      *result = absl::UnavailableError(absl::StrCat(who_, " does not answer: a read that began ", age.count(),
                                                    " ms ago has not ended; look at its file system"));
      return true;
    }
    *result = *ended;
    for (size_t i = 0; ended->ok() && i < places.size(); ++i)
      std::memcpy(pages.data() + i * kPage, at->job->page(places[i]), kPage);
    // Of one that has failed the next try is a new one; of others the pages are there until they are freed.
    if (!ended->ok()) late_.erase(at);
    return true;
  }
  return false;
}

absl::Status BoundedPool::Read(absl::Span<const PoolSlot> slots, absl::Span<std::byte> pages) {
  if (slots.empty()) return absl::OkStatus();
  absl::Status result;
  if (TakeLate(slots, pages, &result)) return result;
  if (pool_->ReadNow(slots, pages)) return absl::OkStatus();
  const auto job = std::make_shared<ReadJob>(pool_, slots);
  std::list<Late> late;  // made before it can be needed
  late.push_back({job, job->slots(), std::chrono::steady_clock::now()});
  const absl::Status status = threads_->Do(job, ReadCall());
  if (status.ok()) {
    std::memcpy(pages.data(), job->page(0), pages.size());
  } else if (threads_->Left(*job)) {
    const std::lock_guard<std::mutex> lock(mutex_);
    late_.splice(late_.end(), late);
    if (late_.size() > kMostLate) late_.pop_front();
  }
  return status;
}

absl::Status BoundedPool::Write(absl::Span<const std::byte> pages, absl::Span<PoolSlot> slots) {
  auto buffer = std::make_shared<PageBuffer>(slots.size());
  std::memcpy(buffer->page(0), pages.data(), pages.size());
  return BeginWrite(std::move(buffer), slots.size())->Await(slots);
}

std::unique_ptr<PagePool::Writing> BoundedPool::BeginWrite(std::shared_ptr<PageBuffer> pages, size_t count) {
  return std::make_unique<Begun>(this, std::make_shared<WriteJob>(pool_, std::move(pages), count, used_));
}

void BoundedPool::Free(absl::Span<const PoolSlot> slots) {
  {
    // What was read of them is not what is written there next.
    const std::lock_guard<std::mutex> lock(mutex_);
    late_.remove_if([&](Late& late) {
      for (const PoolSlot slot : slots) std::replace(late.kept.begin(), late.kept.end(), slot, kNone);
      return std::all_of(late.kept.begin(), late.kept.end(), [](PoolSlot slot) { return slot == kNone; });
    });
  }
  *used_ -= slots.size();
  if (pool_->FreeNow(slots)) return;
  if (threads_->count() == 0) return pool_->Free(slots);
  threads_->Post(std::make_shared<FreeJob>(pool_, slots, used_));
}

uint64_t BoundedPool::used_bytes() const {
  // One alone frees nothing until there is a second one.
  return threads_->count() < 2 ? pool_->used_bytes() : *used_ * kPage;
}

}  // namespace moult::host
