// SPDX-License-Identifier: Apache-2.0
#include "remote/page_digests.h"

#include <cstring>
#include <new>

namespace moult::host {

PageDigests::PageDigests(const image::PageLeaves& leaves, uint64_t pages)
    : leaves_(leaves), digests_(static_cast<uint8_t*>(std::calloc(pages, kSize))), known_(leaves.digests.size() / kSize) {
  if (digests_ == nullptr) throw std::bad_alloc();
}

bool PageDigests::Take(uint64_t chunk, absl::Span<const std::byte> digests) {
  // SAFETY: bytes as bytes.
  if (!leaves_.MatchPages({reinterpret_cast<const uint8_t*>(digests.data()), digests.size()}, chunk)) return false;
  const std::lock_guard<std::mutex> lock(mutex_);
  if (Has(chunk)) return true;
  // SAFETY: the leaf is of as many digests as the chunk has pages, so they are within its part.
  std::memcpy(digests_.get() + chunk * kOfChunk, digests.data(), digests.size());
  known_[chunk].store(true, std::memory_order_release);
  return true;
}

bool PageDigests::Match(uint64_t page, absl::Span<const std::byte> content) const {
  const image::Sha256Digest digest = image::PageDigest(content);
  return std::memcmp(digest.data(), digests_.get() + page * kSize, kSize) == 0;
}

}  // namespace moult::host
