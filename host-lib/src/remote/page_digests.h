// SPDX-License-Identifier: Apache-2.0
//
// The digests of a template's pages, as far as they are known here: those of a chunk together, which were held against
// its leaf. With them a page can be checked without the rest of its chunk.
#ifndef MOULT_HOST_REMOTE_PAGE_DIGESTS_H_
#define MOULT_HOST_REMOTE_PAGE_DIGESTS_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <vector>

#include "absl/types/span.h"
#include "moult/protocol/digest.h"
#include "moult/protocol/limits.h"

namespace moult::host {

// Safe for several threads. Memory that is asked for at once (32 bytes a page), and used as digests come.
class PageDigests {
 public:
  static constexpr size_t kSize = sizeof(image::Sha256Digest);
  static constexpr size_t kOfChunk = image::kPagesChunk / image::kPageSize * kSize;  // bytes; of a short chunk less

  // `leaves` must outlive it; they are made by page.
  PageDigests(const image::PageLeaves& leaves, uint64_t pages);

  bool Has(uint64_t chunk) const { return known_[chunk].load(std::memory_order_acquire); }
  // Keeps all of a chunk's. False: its leaf is not made of them.
  bool Take(uint64_t chunk, absl::Span<const std::byte> digests);
  // Whether this is the content of a page of a chunk that it has.
  bool Match(uint64_t page, absl::Span<const std::byte> content) const;

 private:
  struct Free {
    void operator()(uint8_t* digests) const { std::free(digests); }
  };
  const image::PageLeaves leaves_;
  std::mutex mutex_;  // guards what is written to digests_: never those of a chunk that is known
  std::unique_ptr<uint8_t, Free> digests_;
  std::vector<std::atomic<bool>> known_;  // chunks
};

}  // namespace moult::host

#endif  // MOULT_HOST_REMOTE_PAGE_DIGESTS_H_
