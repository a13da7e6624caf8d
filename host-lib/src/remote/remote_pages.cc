// SPDX-License-Identifier: Apache-2.0
#include "remote/remote_pages.h"

#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "memory/mapping_error.h"
#include "moult/base/status.h"
#include "moult/protocol/digest.h"
#include "moult/protocol/limits.h"

namespace moult::host {
namespace {

using image::kPagesChunk;

constexpr std::chrono::milliseconds kFirstRetryPause{10};
constexpr std::chrono::milliseconds kLongestRetryPause{1000};
constexpr size_t kDigestBytes = sizeof(image::Sha256Digest);
constexpr uint64_t kFetchAtOnce = 8;  // chunks

// A function's life depends on it: an interface that is down for a moment, a memory limit that others are at,
// pass.
bool WorthAnotherTry(const absl::Status& status) {
  return !absl::IsNotFound(status) && !absl::IsPermissionDenied(status) && !absl::IsInvalidArgument(status);
}

void PauseUnless(std::chrono::milliseconds pause, const std::atomic<bool>* stop) {
  for (; pause.count() > 0 && (stop == nullptr || !*stop); pause -= kFirstRetryPause)
    std::this_thread::sleep_for(kFirstRetryPause);
}

}  // namespace

RemotePages::RemotePages(std::string digest, std::string name, const image::PageLeaves& leaves,
                         std::shared_ptr<RemoteTemplate> source, CacheEntry entry,
                         std::shared_ptr<const TemplateCache> cache, Uffd uffd, uint64_t size)
    : digest_(std::move(digest)),
      name_(std::move(name)),
      leaf_digests_(leaves.digests.begin(), leaves.digests.end()),
      leaves_{leaves.format_version, leaf_digests_},
      source_(std::move(source)),
      entry_(std::move(entry)),
      cache_(std::move(cache)),
      uffd_(std::move(uffd)),
      size_(size),
      present_(chunks()) {
  if (leaves_.by_page() && source_->has_page_digests()) digests_.emplace(leaves_, size_ / kPage);
}

absl::StatusOr<std::shared_ptr<RemotePages>> RemotePages::Create(std::string digest, std::string name,
                                                                 const image::PageLeaves& leaves,
                                                                 std::shared_ptr<RemoteTemplate> source,
                                                                 CacheEntry entry,
                                                                 std::shared_ptr<const TemplateCache> cache) {
  struct stat info;
  if (fstat(entry.fd(), &info) != 0) return ErrnoStatus("fstat of a cached template");
  const auto size = static_cast<uint64_t>(info.st_size);
  if (size == 0 || size % kPage != 0 || size != source->pages_size() ||
      leaves.digests.size() != (size + kPagesChunk - 1) / kPagesChunk * kDigestBytes) {
    return absl::DataLossError(
        absl::StrCat("template ", name, ": its pages do not have the size that its manifest says"));
  }
  // So shmem shows that it may give the file huge pages.
  if (info.st_blksize != static_cast<blksize_t>(kPage)) {
    return absl::FailedPreconditionError(absl::StrCat(
        "template ", name,
        ": the file system of its cache uses huge pages, which would show zeros where nothing was fetched; "
        "mount a tmpfs with huge=never for it, or with no cache set "
        "/sys/kernel/mm/transparent_hugepage/shmem_enabled to never"));
  }
  MOULT_ASSIGN_OR_RETURN(Uffd uffd, Uffd::OpenForFiles());
  std::shared_ptr<RemotePages> pages(new RemotePages(std::move(digest), std::move(name), leaves, std::move(source),
                                                     std::move(entry), std::move(cache), std::move(uffd),
                                                     size));
  void* const at = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, pages->fd(), 0);
  if (at == MAP_FAILED) return MappingError("map a cached template");
  pages->filler_ = static_cast<std::byte*>(at);
  // A child, which no userfaultfd watches, does not get it.
  if (madvise(at, size, MADV_DONTFORK) != 0)
    return MappingError("madvise(MADV_DONTFORK) of a cached template");
  MOULT_RETURN_IF_ERROR(pages->uffd_.RegisterFiller({pages->filler_, size}));
  return pages;
}

RemotePages::~RemotePages() {
  if (filler_ != nullptr) munmap(filler_, size_);
}

uint64_t RemotePages::chunks() const { return (size_ + kPagesChunk - 1) / kPagesChunk; }

uint64_t RemotePages::ChunkBytes(uint64_t chunk) const {
  return std::min(kPagesChunk, size_ - chunk * kPagesChunk);
}

// Not by SEEK_HOLE, which walks to the next hole, to the end of a file that has none. What is swapped out
// counts as absent; fetched again, it is found to be there.
PageSet RemotePages::Missing(uint64_t chunk) const {
  PageSet missing;
  if (present_[chunk]) return missing;
  std::array<unsigned char, kPagesChunk / kPage> there{};
  (void)mincore(filler_ + chunk * kPagesChunk, ChunkBytes(chunk), there.data());
  for (size_t i = 0; i < ChunkPages(chunk); ++i) missing[i] = (there[i] & 1) == 0;
  if (missing.none()) present_[chunk] = true;
  return missing;
}

bool RemotePages::HasPage(uint64_t page) const {
  if (present_[page * kPage / kPagesChunk]) return true;
  unsigned char there = 0;
  return mincore(filler_ + page * kPage, kPage, &there) == 0 && (there & 1) != 0;
}

uint64_t RemotePages::PresentBytes() const {
  struct stat info;
  return fstat(fd(), &info) == 0 ? static_cast<uint64_t>(info.st_blocks) * 512 : 0;
}

absl::Status RemotePages::Check(uint64_t chunk, const std::byte* content) const {
  if (leaves_.Match({content, ChunkBytes(chunk)}, chunk)) return absl::OkStatus();
  return absl::DataLossError(absl::StrCat("pages: chunk ", chunk, " (offset ", chunk * kPagesChunk, ", ",
                                          ChunkBytes(chunk),
                                          " bytes) came from the pool, and does not match its digest"));
}

absl::Status RemotePages::TryRead(absl::Span<const uint64_t> chunks, PageBuffer* buffer,
                                  Clock::time_point deadline) {
  std::vector<PoolPiece> pieces;
  for (size_t i = 0; i < chunks.size(); ++i) {
    pieces.push_back(
        {chunks[i] * kPagesChunk, {buffer->page(i * kPagesChunk / kPage), ChunkBytes(chunks[i])}});
  }
  MOULT_RETURN_IF_ERROR(source_->Read(pieces, deadline));
  for (size_t i = 0; i < chunks.size(); ++i) {
    fetched_bytes_ += ChunkBytes(chunks[i]);
    MOULT_RETURN_IF_ERROR(Check(chunks[i], pieces[i].to.data()));
  }
  return absl::OkStatus();
}

template <typename Attempt>
absl::Status RemotePages::Retrying(const RemoteRetry& retry, Attempt attempt) {
  const Clock::time_point end = Clock::now() + retry.deadline;
  for (std::chrono::milliseconds pause = kFirstRetryPause;; pause = std::min(2 * pause, kLongestRetryPause)) {
    const absl::Status status = attempt(std::min(end, Clock::now() + retry.attempt));
    if (status.ok()) return status;
    if (!WorthAnotherTry(status) || Clock::now() + pause >= end) {
      return Annotate(status, absl::StrCat("template ", name_));
    }
    ++retries_;
    PauseUnless(pause, retry.stop);
    if (retry.stop != nullptr && *retry.stop) return absl::CancelledError("the pager was stopped");
  }
}

absl::Status RemotePages::TakeDigests(uint64_t chunk, absl::Span<const std::byte> digests) {
  if (digests_->Take(chunk, digests)) return absl::OkStatus();
  return absl::DataLossError(absl::StrCat("pages: the digests of the pages of chunk ", chunk, " (offset ", chunk * kPagesChunk, ", ",
                                          ChunkBytes(chunk), " bytes) came from the pool, and do not match its digest"));
}

absl::Status RemotePages::TryReadPages(uint64_t chunk, const PageSet& pages, PageBuffer* buffer, Clock::time_point deadline) {
  std::vector<PoolPiece> pieces;
  EachRun(pages, [&](size_t first, size_t count) {
    pieces.push_back({chunk * kPagesChunk + first * kPage, {buffer->page(first), count * kPage}});
  });
  std::array<std::byte, PageDigests::kOfChunk> room;
  const PoolPiece digests{chunk * PageDigests::kOfChunk, absl::MakeSpan(room).first(ChunkPages(chunk) * kDigestBytes)};
  const bool known = digests_->Has(chunk);
  MOULT_RETURN_IF_ERROR(source_->ReadWithDigests(pieces, known ? absl::Span<const PoolPiece>() : absl::MakeSpan(&digests, 1), deadline));
  fetched_bytes_ += pages.count() * kPage;
  if (!known) MOULT_RETURN_IF_ERROR(TakeDigests(chunk, digests.to));
  for (size_t i = 0; i < ChunkPages(chunk); ++i) {
    const uint64_t page = chunk * (kPagesChunk / kPage) + i;
    if (!pages[i] || digests_->Match(page, {buffer->page(i), kPage})) continue;
    return absl::DataLossError(
        absl::StrCat("pages: page ", page, " (offset ", page * kPage, ") came from the pool, and does not match its digest"));
  }
  return absl::OkStatus();
}

absl::Status RemotePages::ReadPages(uint64_t chunk, const PageSet& pages, PageBuffer* buffer, const RemoteRetry& retry) {
  return Retrying(retry, [&](Clock::time_point deadline) { return TryReadPages(chunk, pages, buffer, deadline); });
}

absl::Status RemotePages::TryFetchDigests(uint64_t first, uint64_t count, Clock::time_point deadline) {
  const uint64_t at = first * PageDigests::kOfChunk;
  std::vector<std::byte> room(std::min(count * PageDigests::kOfChunk, size_ / kPage * kDigestBytes - at));
  const PoolPiece piece{at, absl::MakeSpan(room)};
  MOULT_RETURN_IF_ERROR(source_->ReadWithDigests({}, {&piece, 1}, deadline));
  for (uint64_t i = 0; i < count; ++i)
    MOULT_RETURN_IF_ERROR(TakeDigests(first + i, piece.to.subspan(i * PageDigests::kOfChunk, PageDigests::kOfChunk)));
  return absl::OkStatus();
}

absl::Status RemotePages::FetchDigests(uint64_t first, uint64_t count, const RemoteRetry& retry) {
  return Retrying(retry, [&](Clock::time_point deadline) { return TryFetchDigests(first, count, deadline); });
}

absl::Status RemotePages::Read(absl::Span<const uint64_t> chunks, PageBuffer* buffer,
                               const RemoteRetry& retry) {
  return Retrying(retry, [&](Clock::time_point deadline) { return TryRead(chunks, buffer, deadline); });
}

absl::Status RemotePages::Keep(uint64_t chunk, const std::byte* from) {
  // SAFETY: within the mapping, whose size is the file's; `from` has as many bytes.
  const absl::Status kept = uffd_.Copy({filler_ + chunk * kPagesChunk, ChunkBytes(chunk)}, from);
  return Annotate(kept, absl::StrCat("keep chunk ", chunk, " of template ", name_));
}

absl::Status RemotePages::KeepPages(uint64_t chunk, const PageSet& pages, const std::byte* from) {
  absl::Status kept;
  EachRun(pages, [&](size_t first, size_t count) {
    // SAFETY: as in Keep; each page from its place in the chunk's room.
    kept.Update(uffd_.Copy({filler_ + chunk * kPagesChunk + first * kPage, count * kPage}, from + first * kPage));
  });
  return Annotate(kept, absl::StrCat("keep pages of chunk ", chunk, " of template ", name_));
}

absl::Status RemotePages::FetchAll(Clock::time_point deadline) {
  PageBuffer buffer(kFetchAtOnce * kPagesChunk / kPage);
  std::vector<uint64_t> batch;
  for (uint64_t chunk = 0; chunk <= chunks(); ++chunk) {
    if (chunk < chunks() && !Has(chunk)) batch.push_back(chunk);
    if (batch.empty() || (chunk < chunks() && batch.size() < kFetchAtOnce)) continue;
    const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(deadline - Clock::now());
    MOULT_RETURN_IF_ERROR(Read(batch, &buffer, {.deadline = left}));
    for (size_t i = 0; i < batch.size(); ++i) {
      MOULT_RETURN_IF_ERROR(Keep(batch[i], buffer.page(i * kPagesChunk / kPage)));
    }
    batch.clear();
  }
  return absl::OkStatus();
}

std::vector<uint64_t> RemotePages::WorkingSet() const {
  return cache_ == nullptr ? std::vector<uint64_t>() : cache_->WorkingSet(digest_, chunks());
}

void RemotePages::SetWorkingSet(const std::vector<uint64_t>& set) const {
  if (cache_ != nullptr) cache_->SetWorkingSet(digest_, set);
}

}  // namespace moult::host
