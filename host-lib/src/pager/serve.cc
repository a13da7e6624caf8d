// SPDX-License-Identifier: Apache-2.0
#include <poll.h>
#include <sys/epoll.h>
#include <sys/timerfd.h>

#include <algorithm>
#include <bit>
#include <new>

#include "moult/base/status.h"
#include "pager/events.h"
#include "pager/pager.h"

namespace moult::host {
namespace {

constexpr size_t kFaultsAtOnce = 4;  // by one thread, so that others get theirs
constexpr std::chrono::milliseconds kFirstPause{10};
constexpr std::chrono::milliseconds kLongestPause{1000};

}  // namespace

void Pager::Serve() {
  Serving serving(this);
  do {
    pollfd ready{fd(), POLLIN, 0};
    (void)poll(&ready, 1, -1);
  } while (ServeReady(&serving));
}

bool Pager::ServeReady(Serving* serving) {
  epoll_event event;
  while (epoll_wait(epoll_.get(), &event, 1, 0) > 0) {
    switch (Event(event.data.u32)) {
      case Event::kStop:
        return false;
      case Event::kTimer:
        OnTimer(serving->busy_);
        break;
      case Event::kJobs:
        config_.threads->RunJobs();
        break;
      case Event::kFault:
        ServeFaults(serving);
        break;
    }
  }
  return true;
}

void Pager::ServeFaults(Serving* serving) {
  Busy* const busy = serving->busy_;
  for (;;) {
    std::vector<Uffd::Fault> faults = uffd_->Read(kFaultsAtOnce);
    if (faults.empty()) return;
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      busy->faults = faults;
      if (!watch_at_.has_value()) Watch(Clock::now() + ServingThreads::kLook);
    }
    try {
      for (const Uffd::Fault& fault : faults) ServeFault(fault, serving);
    } catch (const std::bad_alloc&) {
      EndWork(busy, absl::ResourceExhaustedError("out of memory"));
    }
    const std::lock_guard<std::mutex> lock(mutex_);
    busy->faults.clear();
    busy->wake.clear();
  }
}

void Pager::ServeFault(const Uffd::Fault& fault, Serving* serving) {
  Busy* const busy = serving->busy_;
  const Clock::time_point start = Clock::now();
  const auto page = table_.At(fault.page);
  if (!page.ok()) return;  // Not ours: the kernel does not tell of such.
  Record* touched = nullptr;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    Record* const record = table_.Get(*page);
    if (record == nullptr) {
      if (table_.chunk(PageTable::ChunkOf(*page)) == nullptr) return;  // Nor of what was never registered.
      table_.Set(*page, &hole_);
      busy->hole = *page;
    } else if (record->state == PageState::kCopying) {
      std::vector<uint64_t> chunks;  // Its Offload uses the chunk.
      Forget(record, nullptr, &chunks);
      table_.Set(*page, &hole_);
      busy->hole = *page;
    } else if (record == &hole_ || record == &noted_hole_) {
      table_.Set(*page, &noted_hole_);
      return;
    } else if (record->state == PageState::kOut) {
      touched = record;
      ClaimWithNeighbours(record, &busy->claimed);
      busy->touched = record;
      Count(record->batch->owner, &PagerCounts::faults, 1);
    } else {
      // kLeaving, kComing: who ends it wakes. kFailed, kLost: it waits, as those before it.
      record->noted = true;
      return;
    }
  }
  if (touched == nullptr) return ServeHole(*page, fault.write_protected, busy);
  if (!Bring(busy->claimed, touched, &serving->buffer_, busy).ok()) return TellLost();
  const auto took = std::chrono::duration_cast<std::chrono::microseconds>(Clock::now() - start).count();
  const std::lock_guard<std::mutex> lock(mutex_);
  ++stats_
        .fault_us[std::min<size_t>(std::bit_width(static_cast<uint64_t>(took)), stats_.fault_us.size() - 1)];
}

// Groups are aligned, so that a walk up or down meets each once. Zeros cost nothing to bring later.
void Pager::ClaimWithNeighbours(Record* touched, std::vector<Record*>* claimed) {
  std::vector<Record>& records = touched->batch->records;
  const size_t group = config_.neighbours + 1;
  const auto index = static_cast<size_t>(touched - records.data());
  const size_t first = index / group * group;
  claimed->reserve(group);
  for (size_t i = first; i < std::min(first + group, records.size()); ++i) {
    Record& record = records[i];
    const bool near =
        record.pid == touched->pid && record.va - touched->va + group * kPage < 2 * group * kPage;
    if (&record != touched && (record.state != PageState::kOut || record.slot == Record::kZero || !near)) {
      continue;
    }
    record.state = PageState::kComing;
    claimed->push_back(&record);
  }
}

void Pager::ServeHole(PageId page, bool write_protected, Busy* busy) {
  const absl::Span<std::byte> host = table_.Host(page, 1);
  const absl::Status status = write_protected ? uffd_->Unprotect(host) : uffd_->Zero(host);
  if (absl::IsNotFound(status)) {
    uffd_->Wake(host);  // Not registered any more.
  } else if (!status.ok()) {
    // No memory, most likely.
    const std::lock_guard<std::mutex> lock(mutex_);
    const Clock::time_point now = Clock::now();
    failures_[page] = {now, now, now + kFirstPause, kFirstPause};
    ArmTimer();
  }
  EndHoles({&page, 1}, busy);
}

// A page could not be brought in; who waits for it goes on waiting.
void Pager::Fail(Record* record, const absl::Status& why) {
  const Clock::time_point now = Clock::now();
  Failure& failure = failures_[record->page];
  // One of long ago, whose waiter is gone, is another matter.
  if (failure.first == Clock::time_point() || now - failure.last > config_.read_deadline + kLongestPause) {
    failure = {now, now, now, kFirstPause};
  }
  failure.last = now;
  if (now - failure.first < config_.read_deadline) {
    record->state = PageState::kFailed;
    failure.next = now + failure.pause;
    const auto& zeros_from = owners_.find(record->batch->owner)->second.zeros_from;
    if (zeros_from.has_value()) failure.next = std::min(failure.next, std::max(*zeros_from, now));
    failure.pause = std::min(2 * failure.pause, kLongestPause);
    ArmTimer();
    return;
  }
  failures_.erase(record->page);
  record->state = PageState::kLost;
  const uint64_t owner = record->batch->owner;
  Count(owner, &PagerCounts::lost_pages, 1);
  if (std::exchange(owners_.find(owner)->second.told_lost, true)) return;
  losses_.push_back(LossOf(*record, why, Loss::kLost));
}

Pager::Told Pager::LossOf(const Record& record, const absl::Status& why, Loss kind) const {
  const GuestRange page = table_.Pages(record.page, 1);
  const char* const became = kind == Loss::kLost ? " is lost" : " is zeros";
  return {record.batch->owner, page.start, Annotate(why, absl::StrCat("page at ", page.Text(), became)), kind};
}

void Pager::TellLost() {
  std::vector<Told> told;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    told.swap(losses_);
  }
  for (const Told& one : told) {
    const auto& tell = one.kind == Loss::kLost ? config_.lost : config_.zeroed;
    if (tell) tell(one.owner, one.gpa, one.why);
  }
}

// To the earliest failure that waits, or to when threads are looked after.
void Pager::ArmTimer() {
  Clock::time_point next = watch_at_.value_or(Clock::time_point::max());
  for (const auto& [page, failure] : failures_) next = std::min(next, failure.next);
  if (next == Clock::time_point::max()) return;
  const auto wait = std::max<std::chrono::nanoseconds>(next - Clock::now(), std::chrono::nanoseconds(1));
  itimerspec spec = {};
  spec.it_value.tv_sec = static_cast<time_t>(wait.count() / 1'000'000'000);
  spec.it_value.tv_nsec = static_cast<long>(wait.count() % 1'000'000'000);
  (void)timerfd_settime(timer_.get(), 0, &spec, nullptr);
}

// A try is made by waking: the access is made again, and so is its fault.
void Pager::OnTimer(Busy* mine) {
  uint64_t expired;
  (void)!read(timer_.get(), &expired, sizeof(expired));
  TakeOver(mine);
  std::vector<PageId> wake;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    const Clock::time_point now = Clock::now();
    for (auto entry = failures_.begin(); entry != failures_.end();) {
      if (entry->second.next > now) {
        ++entry;
        continue;
      }
      wake.push_back(entry->first);
      Record* const record = table_.Get(entry->first);
      if (record == nullptr || record->batch == nullptr) {
        entry = failures_.erase(entry);
        continue;
      }
      if (record->state == PageState::kFailed) record->state = PageState::kOut;
      entry->second.next = Clock::time_point::max();
      ++entry;
    }
    ArmTimer();
  }
  for (const PageId page : wake) Wake(page);
}

}  // namespace moult::host
