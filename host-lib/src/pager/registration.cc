// SPDX-License-Identifier: Apache-2.0
#include "moult/base/status.h"
#include "pager/events.h"
#include "pager/pager.h"

namespace moult::host {

absl::Status Pager::OpenUffd() {
  const std::lock_guard<std::mutex> lock(registration_mutex_);
  if (uffd_.has_value()) return absl::OkStatus();
  bool shared = false;
  bool anonymous = false;
  for (const GuestMemory::Extent& extent : memory_->Extents()) (extent.shared ? shared : anonymous) = true;
  MOULT_ASSIGN_OR_RETURN(Uffd uffd, Uffd::Open(shared, anonymous));
  uffd_.emplace(std::move(uffd));
  const absl::Status status = AddEvent(epoll_.get(), uffd_->fd(), Event::kFault, true);
  if (!status.ok()) uffd_.reset();
  return status;
}

bool Pager::Registered(uint64_t chunk) {
  const Chunk* entry = chunk < table_.chunks() ? table_.chunk(chunk) : nullptr;
  return entry != nullptr && entry->registered;
}

// How many separate ranges more there are when `chunk` is registered, which it is not: 1, 0 or -1.
int64_t Pager::RangesMore(uint64_t chunk) {
  const absl::Span<std::byte> host = table_.ChunkHost(chunk);
  int64_t more = 1;
  if (chunk > 0 && Registered(chunk - 1)) {
    const absl::Span<std::byte> before = table_.ChunkHost(chunk - 1);
    if (before.data() + before.size() == host.data()) --more;
  }
  if (Registered(chunk + 1) && table_.ChunkHost(chunk + 1).data() == host.data() + host.size()) --more;
  return more;
}

absl::Status Pager::Use(absl::Span<const uint64_t> chunks) {
  absl::Status status;
  {
    const std::lock_guard<std::mutex> lock(registration_mutex_);
    {
      const std::lock_guard<std::mutex> inner(mutex_);
      for (const uint64_t chunk : chunks) ++table_.MakeChunk(chunk).users;
    }
    for (size_t i = 0; i < chunks.size() && status.ok(); ++i) {
      if (!Registered(chunks[i])) status = RegisterChunk(chunks[i]);
    }
  }
  if (!status.ok()) Unuse(chunks);
  return status;
}

absl::Status Pager::RegisterChunk(uint64_t chunk) {
  const uint64_t ranges = ranges_ + static_cast<uint64_t>(RangesMore(chunk));
  if (ranges > config_.most_ranges) {
    return absl::ResourceExhaustedError(
        absl::StrCat("what is offloaded lies in more than ", config_.most_ranges,
                     " separate pieces of guest RAM; recall functions, or raise most_ranges"));
  }
  // The kernel merges the mapping with a registered one beside it.
  MOULT_RETURN_IF_ERROR(uffd_->Register(table_.ChunkHost(chunk)));
  ranges_ = ranges;
  const std::lock_guard<std::mutex> lock(mutex_);
  table_.chunk(chunk)->registered = true;
  return absl::OkStatus();
}

void Pager::Unuse(absl::Span<const uint64_t> chunks) {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    for (const uint64_t chunk : chunks) --table_.chunk(chunk)->users;
  }
  Retire(chunks);
}

void Pager::Retire(absl::Span<const uint64_t> chunks) {
  if (chunks.empty()) return;
  for (const uint64_t number : chunks) RetireChunk(number);
  std::set<uint64_t> again;
  {
    const std::lock_guard<std::mutex> lock(registration_mutex_);
    again.swap(unregister_);
  }
  for (const uint64_t number : again) RetireChunk(number);
}

void Pager::RetireChunk(uint64_t number) {
  const auto idle = [&] {
    const std::lock_guard<std::mutex> lock(mutex_);
    const Chunk& chunk = *table_.chunk(number);
    return chunk.registered && chunk.records == 0 && chunk.users == 0;
  };
  if (!idle()) return;
  const std::lock_guard<std::mutex> lock(registration_mutex_);
  // An Offload that is about to use it has counted itself under this lock; a claim of a hole that comes only
  // now meets memory that is not registered, which does no harm.
  if (!idle()) return;
  if (!uffd_->Unregister(table_.ChunkHost(number)).ok()) {
    // Between two that are registered it is one mapping more.
    unregister_.insert(number);
    return;
  }
  const std::lock_guard<std::mutex> inner(mutex_);
  table_.chunk(number)->registered = false;
  ranges_ -= static_cast<uint64_t>(RangesMore(number));
}

}  // namespace moult::host
