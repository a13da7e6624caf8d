// SPDX-License-Identifier: Apache-2.0
//
// A thread in Serve has ended in the midst of its work: another ends that.
#include <sys/mman.h>

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "moult/base/status.h"
#include "pager/pager.h"

namespace moult::host {

Pager::Serving::Serving(Pager* pager)
    : pager_(*pager), thread_(pager_.config_.threads.get()), buffer_(pager_.config_.neighbours + 1) {
  const std::lock_guard<std::mutex> lock(pager_.mutex_);
  busy_ = &pager_.busy_[pager_.config_.threads->me()];
  // Of those before it the last may have died.
  const bool any = std::any_of(pager_.busy_.begin(), pager_.busy_.end(), [](const auto& each) { return !each.second.idle(); });
  if (any) pager_.Watch(Clock::now());
}

// In the midst of something where it leaves by an exception, or is cancelled.
Pager::Serving::~Serving() {
  const std::lock_guard<std::mutex> lock(pager_.mutex_);
  if (busy_->idle()) pager_.busy_.erase(pager_.config_.threads->me());
}

void Pager::Watch(Clock::time_point at) {
  watch_at_ = at;
  ArmTimer();
}

void Pager::TakeOver(Busy* mine) {
  for (;;) {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      const Clock::time_point now = Clock::now();
      if (!watch_at_.has_value() || *watch_at_ > now) return;
      const auto dead = std::find_if(busy_.begin(), busy_.end(), [&](const auto& each) {
        return &each.second != mine && config_.threads->Gone(each.first);
      });
      if (dead == busy_.end()) {
        const bool any = std::any_of(busy_.begin(), busy_.end(), [&](const auto& each) { return !each.second.idle(); });
        watch_at_.reset();
        if (any) Watch(now + ServingThreads::kLook);
        return;
      }
      *mine = std::move(dead->second);
      busy_.erase(dead);
    }
    EndWork(mine, absl::UnavailableError("the thread that fetched it has ended by itself"));
    TellLost();
  }
}

// What was claimed is settled, as after a read that failed, and who waits makes his access again. Some pages may be there
// already: nobody else could put them there.
void Pager::EndWork(Busy* busy, const absl::Status& why) {
  std::vector<bool> there(busy->claimed.size());
  for (size_t i = 0; i < there.size(); ++i) {
    unsigned char resident = 0;
    const absl::Span<std::byte> host = table_.Host(busy->claimed[i]->page, 1);
    there[i] = mincore(host.data(), host.size(), &resident) == 0 && (resident & 1) != 0;
  }
  if (!there.empty())
    Settle(busy->claimed, busy->touched, there, why, busy);
  if (const std::optional<PageId> hole = busy->hole; hole.has_value()) EndHoles({&*hole, 1}, busy);
  for (const PageId page : busy->wake) Wake(page);
  for (const Uffd::Fault& fault : busy->faults) uffd_->Wake({fault.page, kPage});
  const std::lock_guard<std::mutex> lock(mutex_);
  *busy = {};
}

}  // namespace moult::host
