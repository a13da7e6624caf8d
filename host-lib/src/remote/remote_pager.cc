// SPDX-License-Identifier: Apache-2.0
#include "remote/remote_pager.h"

#include <poll.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <iterator>
#include <utility>

#include "absl/strings/str_cat.h"
#include "memory/mapping_error.h"
#include "moult/base/status.h"
#include "moult/protocol/limits.h"
#include "pager/events.h"

namespace moult::host {

using image::kPagesChunk;

absl::Span<std::byte> RemotePager::Slot::chunk(uint64_t i) const {
  return {base + i * kPagesChunk, pages->ChunkBytes(i)};
}

PageSet RemotePager::Slot::ChunkPages(uint64_t i) const {
  return ~PageSet() >> (kPagesChunk / kPage - pages->ChunkPages(i));
}

absl::StatusOr<std::unique_ptr<RemotePager>> RemotePager::Create(RemoteConfig config) {
  if (config.threads == nullptr) {
    MOULT_ASSIGN_OR_RETURN(config.threads, ServingThreads::Create());
  }
  std::unique_ptr<RemotePager> pager(new RemotePager(std::move(config)));
  pager->epoll_ = UniqueFd(epoll_create1(EPOLL_CLOEXEC));
  if (!pager->epoll_.valid()) return ErrnoStatus("remote pager: epoll_create1");
  pager->stop_ = UniqueFd(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  pager->wake_ = UniqueFd(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!pager->stop_.valid() || !pager->wake_.valid()) return ErrnoStatus("remote pager: eventfd");
  MOULT_RETURN_IF_ERROR(AddEvent(pager->epoll_.get(), pager->stop_.get(), Event::kStop, false));
  MOULT_RETURN_IF_ERROR(AddEvent(pager->epoll_.get(), pager->wake_.get(), Event::kTimer, false));
  MOULT_RETURN_IF_ERROR(AddEvent(pager->epoll_.get(), pager->config_.threads->fd(), Event::kJobs, true));
  return pager;
}

RemotePager::~RemotePager() {
  for (const auto& entry : slots_) {
    const SlotPtr& slot = entry.second;
    for (uint64_t i = 0; i < slot->pages->chunks(); ++i) {
      EachRun(slot->pages->Missing(i), [&](size_t first, size_t count) {
        // SAFETY: within a slot that is ours. Without a userfaultfd an access would put zeros into the file.
        void* const at = mmap(slot->chunk(i).data() + first * kPage, count * kPage, PROT_READ | PROT_WRITE,
                              MAP_FIXED | MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        // Out of mappings: nobody may touch it, then.
        if (at == MAP_FAILED) (void)mprotect(slot->base, slot->pages->size(), PROT_NONE);
      });
    }
  }
}

absl::Status RemotePager::OpenUffd() {
  if (uffd_.has_value()) return absl::OkStatus();
  MOULT_ASSIGN_OR_RETURN(Uffd uffd, Uffd::OpenForFiles());
  uffd_.emplace(std::move(uffd));
  // As long as there is one that nobody has read, others are woken: who reads one may be kept by the pool.
  return AddEvent(epoll_.get(), uffd_->fd(), Event::kFault, false);
}

absl::Status RemotePager::Show(std::byte* at, std::shared_ptr<RemotePages> pages) {
  MOULT_RETURN_IF_ERROR(OpenUffd());
  const uint64_t size = pages->size();
  const std::string context = absl::StrCat("show template ", pages->digest());
  // SAFETY: `at` is a free slot of a window, which the embedder gave us whole, and as long as the file.
  // Without access until it is registered: no userfaultfd would catch one.
  if (mmap(at, size, PROT_NONE, MAP_FIXED | MAP_PRIVATE | MAP_NORESERVE, pages->fd(), 0) == MAP_FAILED) {
    return MappingError(absl::StrCat(context, ": mmap"));
  }
  if (madvise(at, size, MADV_DONTFORK) != 0)
    return MappingError(absl::StrCat(context, ": madvise(MADV_DONTFORK)"));
  MOULT_RETURN_IF_ERROR(Annotate(uffd_->RegisterFile({at, size}), context));
  auto slot = std::make_shared<Slot>();
  slot->base = at;
  slot->busy.resize(pages->chunks());
  slot->in_set.resize(pages->chunks());
  slot->known = pages->WorkingSet();
  for (const uint64_t chunk : slot->known) slot->in_set[chunk] = true;
  slot->urgent.assign(slot->known.begin(), slot->known.end());
  slot->pages = std::move(pages);
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    slots_.insert_or_assign(at, std::move(slot));
  }
  if (mprotect(at, size, PROT_READ | PROT_WRITE) != 0) {
    const absl::Status refused = MappingError(absl::StrCat(context, ": mprotect"));
    Forget(at);
    return refused;
  }
  Wake();
  return absl::OkStatus();
}

void RemotePager::Forget(const std::byte* at) {
  const std::lock_guard<std::mutex> lock(mutex_);
  const auto known = slots_.find(at);
  if (known == slots_.end()) return;
  const SlotPtr slot = known->second;
  slots_.erase(known);
  // Who waits makes the access again, and is woken at each fault until the other mapping is there.
  uffd_->Wake(slot->memory());
}

void RemotePager::SetUsers(const std::byte* at, const std::set<uint64_t>& users) {
  std::vector<uint64_t> gone;
  Lost lost;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    const auto known = slots_.find(at);
    if (known == slots_.end()) return;
    Slot& slot = *known->second;
    // An attach that was under way when the slot was lost, and succeeded.
    if (slot.fate != Fate::kServed) {
      std::set_difference(users.begin(), users.end(), slot.users.begin(), slot.users.end(),
                          std::back_inserter(lost.functions));
      slot.told.insert(lost.functions.begin(), lost.functions.end());
      lost.page = slot.base;
      lost.why = absl::DataLossError("pages of its template were lost while it was attached");
    }
    slot.users = users;
    if (!users.empty())
      slot.record_until = std::min(slot.record_until, Clock::now() + config_.working_set_window);
    for (const uint64_t function : slot.told) {
      if (function != 0 && !users.contains(function)) gone.push_back(function);
    }
  }
  // What is there no more waits for nothing.
  for (const uint64_t function : gone) (void)Resolve(function, Resolution::kZero);
  Tell(lost);
  Wake();
}

bool RemotePager::spoiled(const std::byte* at) const {
  const std::lock_guard<std::mutex> lock(mutex_);
  const auto known = slots_.find(at);
  return known != slots_.end() && known->second->fate != Fate::kServed;
}

SlotBytes RemotePager::bytes(const std::byte* at) const {
  const std::lock_guard<std::mutex> lock(mutex_);
  const auto known = slots_.find(at);
  return known == slots_.end() ? SlotBytes() : known->second->bytes;
}

RemotePager::SlotPtr RemotePager::Find(const std::byte* address) const {
  const auto next = slots_.upper_bound(address);
  if (next == slots_.begin()) return nullptr;
  const SlotPtr& slot = std::prev(next)->second;
  return static_cast<uint64_t>(address - slot->base) < slot->pages->size() ? slot : nullptr;
}

bool RemotePager::Live(const Slot& slot) const {
  const auto known = slots_.find(slot.base);
  return known != slots_.end() && known->second.get() == &slot;
}

void RemotePager::Wake() {
  const uint64_t one = 1;
  (void)!write(wake_.get(), &one, sizeof(one));
}

void RemotePager::Stop() {
  stopping_ = true;
  // Never read: each thread sees it, now or later.
  const uint64_t one = 1;
  (void)!write(stop_.get(), &one, sizeof(one));
}

absl::Status RemotePager::Resolve(uint64_t function, Resolution resolution) {
  if (resolution == Resolution::kPoison && uffd_.has_value() && !uffd_->can_poison()) {
    return absl::UnimplementedError(
        "resolve lost pages: a memory error needs a host kernel of Linux 6.6 or later");
  }
  const std::lock_guard<std::mutex> lock(mutex_);
  bool found = false;
  for (const auto& [base, slot] : slots_) {
    if (slot->told.erase(function) == 0) continue;
    found = true;
    // They share what is there: a memory error for one is one for all, and where one lives on, none gets
    // zeros.
    if (resolution == Resolution::kPoison) slot->fate = Fate::kPoison;
    if (resolution == Resolution::kRetry) slot->retry = true;
    if (!slot->told.empty()) continue;
    if (slot->fate == Fate::kLost) slot->fate = slot->retry ? Fate::kServed : Fate::kZero;
    slot->retry = false;
    uffd_->Wake(slot->memory());
  }
  if (found) return absl::OkStatus();
  return absl::NotFoundError(
      absl::StrCat("resolve: function ", function, " has no lost pages of a template"));
}

RemoteStats RemotePager::stats() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return stats_;
}

}  // namespace moult::host
