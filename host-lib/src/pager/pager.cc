// SPDX-License-Identifier: Apache-2.0
#include "pager/pager.h"

#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/timerfd.h>

#include "moult/base/status.h"
#include "pager/events.h"

namespace moult::host {

Pager::Pager(const GuestMemory* memory, PagerConfig config)
    : memory_(memory), config_(std::move(config)), table_(memory) {}

absl::StatusOr<std::unique_ptr<Pager>> Pager::Create(const GuestMemory* memory, PagerConfig config) {
  if (config.pool == nullptr) return absl::InvalidArgumentError("pager: no pool");
  if (config.neighbours > kMostNeighbours) {
    return absl::InvalidArgumentError(
        absl::StrCat("pager: neighbours ", config.neighbours, " is more than ", kMostNeighbours));
  }
  if (config.threads == nullptr) {
    MOULT_ASSIGN_OR_RETURN(config.threads, ServingThreads::Create());
  }
  std::unique_ptr<Pager> pager(new Pager(memory, std::move(config)));
  pager->epoll_ = UniqueFd(epoll_create1(EPOLL_CLOEXEC));
  if (!pager->epoll_.valid()) return ErrnoStatus("pager: epoll_create1");
  pager->stop_ = UniqueFd(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!pager->stop_.valid()) return ErrnoStatus("pager: eventfd");
  pager->timer_ = UniqueFd(timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK));
  if (!pager->timer_.valid()) return ErrnoStatus("pager: timerfd_create");
  MOULT_RETURN_IF_ERROR(AddEvent(pager->epoll_.get(), pager->stop_.get(), Event::kStop, false));
  MOULT_RETURN_IF_ERROR(AddEvent(pager->epoll_.get(), pager->timer_.get(), Event::kTimer, false));
  MOULT_RETURN_IF_ERROR(AddEvent(pager->epoll_.get(), pager->config_.threads->fd(), Event::kJobs, true));
  return pager;
}

Pager::~Pager() = default;

void Pager::Stop() {
  // Never read: each thread in Serve sees it, now or later.
  const uint64_t one = 1;
  (void)!write(stop_.get(), &one, sizeof(one));
}

void Pager::Count(uint64_t owner, uint64_t PagerCounts::*what, int64_t change) {
  stats_.total.*what += static_cast<uint64_t>(change);
  const auto known = owners_.find(owner);
  if (known != owners_.end()) known->second.counts.*what += static_cast<uint64_t>(change);
}

PagerStats Pager::stats() const {
  PagerStats stats;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    stats = stats_;
  }
  stats.pool_used_bytes = config_.pool->used_bytes();
  stats.pool_limit_bytes = config_.pool->limit_bytes();
  return stats;
}

std::vector<bool> Pager::Out(GuestRange range) {
  const std::lock_guard<std::mutex> lock(mutex_);
  const absl::StatusOr<PageId> first = table_.First(range);
  if (!first.ok()) return {};
  std::vector<bool> out(range.length / kPage);
  for (uint64_t i = 0; i < out.size(); ++i) {
    const Record* const record = table_.Get(*first + i);
    // Holes that are being filled with zeros were nobody's, and what is being copied is still there.
    out[i] = record != nullptr && record != &hole_ && record != &noted_hole_ && record->state != PageState::kCopying;
  }
  return out;
}

PagerCounts Pager::owner_stats(uint64_t owner) const {
  const std::lock_guard<std::mutex> lock(mutex_);
  const auto known = owners_.find(owner);
  return known == owners_.end() ? PagerCounts() : known->second.counts;
}

}  // namespace moult::host
