// SPDX-License-Identifier: Apache-2.0
//
// A thread in Serve has ended in the midst of its work: another sees to it that who waits makes his access again.
#include <algorithm>
#include <utility>

#include "remote/remote_pager.h"

namespace moult::host {

int RemotePager::Prefetchers() const {
  return static_cast<int>(
      std::count_if(busy_.begin(), busy_.end(), [](const auto& each) { return each.second.page == nullptr; }));
}

void RemotePager::Begin(Busy busy) {
  for (const uint64_t chunk : busy.chunks) busy.slot->busy[chunk] = true;
  if (busy.page != nullptr && busy.chunks.empty()) busy.slot->alone.insert(static_cast<uint64_t>(busy.page - busy.slot->base) / kPage);
  busy_.insert_or_assign(config_.threads->me(), std::move(busy));
  // Others may wait without an end, also where this one has taken a call that was for all.
  const bool watched = watch_at_ != Clock::time_point::max() && watcher_ != config_.threads->me();
  if (watch_at_ == Clock::time_point::max()) watch_at_ = Clock::now() + ServingThreads::kLook;
  if (!watched) Wake();
}

void RemotePager::TakeOver() {
  std::vector<Lost> lost;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    const Clock::time_point now = Clock::now();
    if (watch_at_ > now) return;
    std::erase_if(busy_, [&](const auto& each) {
      if (!config_.threads->Gone(each.first)) return false;
      Lost one;
      EndWork(each.second, &one);
      if (one.page != nullptr) lost.push_back(std::move(one));
      return true;
    });
    watch_at_ = busy_.empty() ? Clock::time_point::max() : now + ServingThreads::kLook;
  }
  for (const Lost& one : lost) Tell(one);
}

void RemotePager::EndWork(const Busy& busy, Lost* lost) {
  Slot& slot = *busy.slot;
  for (const uint64_t chunk : busy.chunks) slot.busy[chunk] = false;
  const bool alone = busy.page != nullptr && busy.chunks.empty();
  if (alone) slot.alone.erase(static_cast<uint64_t>(busy.page - slot.base) / kPage);
  if (!Live(slot)) return;
  if (busy.page != nullptr && ++slot.deaths >= kMostDeaths)
    return Lose(slot, busy.page, absl::UnavailableError("threads that fetched it have ended by themselves"), lost);
  for (const uint64_t chunk : busy.chunks) uffd_->Wake(slot.chunk(chunk));
  if (alone) uffd_->Wake(slot.memory().subspan(static_cast<size_t>(busy.page - slot.base), kPage));
}

}  // namespace moult::host
