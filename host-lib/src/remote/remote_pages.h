// SPDX-License-Identifier: Apache-2.0
//
// The pages of a template that lies in a pool, and those of them that this host has: a tmpfs file of the
// host's cache, shared with other processes, or of this one alone.
//
// A page that the file has is whole, and is what the manifest's digest tree says; of a chunk it may have some and not the
// others. Pages get into it by
// UFFDIO_COPY on a shared mapping that nobody touches, from memory of ours that was checked before. The
// kernel makes the page first and then puts it into the file, where there is none, so a process that dies in
// the midst leaves none, and of two that bring the same page one finds it there. (write(2) would not do: a
// copy that is cut short leaves a page with zeros.) Whoever maps the file must have registered the mapping
// before anything can touch it: an access to a hole that no userfaultfd catches puts a page of zeros into the
// file.
#ifndef MOULT_HOST_REMOTE_REMOTE_PAGES_H_
#define MOULT_HOST_REMOTE_REMOTE_PAGES_H_

#include <atomic>
#include <bitset>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "moult/protocol/digest.h"
#include "moult/protocol/limits.h"
#include "pager/page_buffer.h"
#include "pager/uffd.h"
#include "pool/cache/template_cache.h"
#include "pool/template_pool.h"
#include "remote/page_digests.h"

namespace moult::host {

struct RemoteRetry {
  std::chrono::milliseconds deadline{10'000};  // of one Read
  std::chrono::milliseconds attempt{3'000};    // of one try
  const std::atomic<bool>* stop = nullptr;     // when it becomes true no other try is made
};

// Of a chunk, by their number in it.
using PageSet = std::bitset<image::kPagesChunk / image::kPageSize>;

// `each` gets (first, count) of every run of pages that follow each other.
template <typename Each>
void EachRun(const PageSet& pages, Each each) {
  for (size_t first = 0, end; first < pages.size(); first = end) {
    end = first + 1;
    if (!pages[first]) continue;
    while (end < pages.size() && pages[end]) ++end;
    each(first, end - first);
  }
}

// Safe for several threads.
class RemotePages {
 public:
  using Clock = RemoteTemplate::Clock;

  // `name`: what messages call it. `leaves` are copied. `cache`: for the working set; null when `entry` is private.
  static absl::StatusOr<std::shared_ptr<RemotePages>> Create(std::string digest, std::string name, const image::PageLeaves& leaves,
                                                             std::shared_ptr<RemoteTemplate> source,
                                                             CacheEntry entry,
                                                             std::shared_ptr<const TemplateCache> cache);
  ~RemotePages();

  const std::string& digest() const { return digest_; }
  int fd() const { return entry_.fd(); }
  bool shared() const { return entry_.shared(); }
  // Threads that serve faults read it for each other: there must be two.
  bool lends() const { return source_->lends(); }
  uint64_t size() const { return size_; }
  uint64_t chunks() const;
  uint64_t ChunkBytes(uint64_t chunk) const;
  uint64_t ChunkPages(uint64_t chunk) const { return ChunkBytes(chunk) / kPage; }

  // Does the file have all pages of this chunk?
  bool Has(uint64_t chunk) const { return Missing(chunk).none(); }
  // Those of its pages that the file has not.
  PageSet Missing(uint64_t chunk) const;
  bool HasPage(uint64_t page) const;
  // Bytes that the file has.
  uint64_t PresentBytes() const;

  // Fetches chunks into `buffer`, one behind the other in room for whole ones, and checks them. Blocks. Tries
  // again until the deadline, also where what came is not what the manifest says (kDataLoss): it may be next
  // time. For good are kNotFound, kPermissionDenied and kInvalidArgument.
  absl::Status Read(absl::Span<const uint64_t> chunks, PageBuffer* buffer, const RemoteRetry& retry);
  // Puts a chunk that Read has checked into the file. kResourceExhausted: the file system is full.
  absl::Status Keep(uint64_t chunk, const std::byte* from);

  // Whether single pages can be fetched and checked: the manifest has leaves for that, and the pool the digests.
  bool by_page() const { return digests_.has_value(); }
  // As Read, of some pages of a chunk, each to its place in the chunk's room at the beginning of `buffer`; with the
  // digests of the chunk's pages, if they are not known yet. by_page().
  absl::Status ReadPages(uint64_t chunk, const PageSet& pages, PageBuffer* buffer, const RemoteRetry& retry);
  // As Keep, of pages that ReadPages has checked; `from`: where the chunk's room begins.
  absl::Status KeepPages(uint64_t chunk, const PageSet& pages, const std::byte* from);
  // Fetches the digests of the pages of `count` chunks, so that nobody who waits for a page has to. by_page().
  absl::Status FetchDigests(uint64_t first, uint64_t count, const RemoteRetry& retry);

  // Read and Keep of all that is not there, up to `deadline`.
  absl::Status FetchAll(Clock::time_point deadline);

  std::vector<uint64_t> WorkingSet() const;
  void SetWorkingSet(const std::vector<uint64_t>& set) const;

  uint64_t fetched_bytes() const { return fetched_bytes_; }
  uint64_t retries() const { return retries_; }

 private:
  RemotePages(std::string digest, std::string name, const image::PageLeaves& leaves, std::shared_ptr<RemoteTemplate> source,
              CacheEntry entry, std::shared_ptr<const TemplateCache> cache, Uffd uffd, uint64_t size);
  absl::Status TryRead(absl::Span<const uint64_t> chunks, PageBuffer* buffer, Clock::time_point deadline);
  absl::Status TryReadPages(uint64_t chunk, const PageSet& pages, PageBuffer* buffer, Clock::time_point deadline);
  absl::Status TryFetchDigests(uint64_t first, uint64_t count, Clock::time_point deadline);
  // `attempt` is given its deadline, again and again.
  template <typename Attempt>
  absl::Status Retrying(const RemoteRetry& retry, Attempt attempt);
  absl::Status TakeDigests(uint64_t chunk, absl::Span<const std::byte> digests);
  absl::Status Check(uint64_t chunk, const std::byte* content) const;

  const std::string digest_;
  const std::string name_;
  const std::vector<uint8_t> leaf_digests_;
  const image::PageLeaves leaves_;  // of leaf_digests_
  const std::shared_ptr<RemoteTemplate> source_;
  const CacheEntry entry_;
  const std::shared_ptr<const TemplateCache> cache_;
  const Uffd uffd_;
  const uint64_t size_;
  std::optional<PageDigests> digests_;
  std::byte* filler_ = nullptr;  // the shared mapping
  // Chunks that were seen in the file: what an entry that is held has, it keeps.
  mutable std::vector<std::atomic<bool>> present_;
  std::atomic<uint64_t> fetched_bytes_ = 0;
  std::atomic<uint64_t> retries_ = 0;
};

}  // namespace moult::host

#endif  // MOULT_HOST_REMOTE_REMOTE_PAGES_H_
