// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cstdint>

#include "absl/strings/str_cat.h"
#include "backing.h"
#include "moult/protocol/digest.h"
#include "moult/protocol/limits.h"

namespace moult::poold {
namespace {

using image::kPageSize;
using image::kPagesChunk;
using image::Sha256Digest;

bool DigestChunk(const image::PageLeaves& leaves, uint64_t number, absl::Span<const std::byte> chunk, absl::Span<uint8_t> digests) {
  for (uint64_t at = 0; at < chunk.size(); at += kPageSize) {
    const Sha256Digest digest = image::PageDigest(chunk.subspan(at, kPageSize));
    std::copy(digest.begin(), digest.end(), digests.begin() + static_cast<ptrdiff_t>(at / kPageSize * digest.size()));
  }
  return leaves.MatchPages(digests, number);
}

}  // namespace

absl::Status DigestPages(const std::string& name, const image::PageLeaves& leaves, const Holding& memory) {
  constexpr uint64_t kDigests = kPagesChunk / kPageSize * sizeof(Sha256Digest);  // of a chunk
  // SAFETY: bytes as bytes.
  const absl::Span<uint8_t> digests(reinterpret_cast<uint8_t*>(memory.digests().data()), memory.digests().size());
  for (uint64_t at = 0; at < memory.pages().size(); at += kPagesChunk) {
    const uint64_t number = at / kPagesChunk;
    const absl::Span<const std::byte> chunk = memory.pages().subspan(at, kPagesChunk);
    if (leaves.by_page() ? DigestChunk(leaves, number, chunk, digests.subspan(number * kDigests, kDigests)) : leaves.Match(chunk, number)) continue;
    return absl::DataLossError(absl::StrCat("template ", name, ": pages: chunk ", number, " (offset ", at, ", ", chunk.size(),
                                            " bytes) does not match its digest; remove it, and push it again"));
  }
  return absl::OkStatus();
}

}  // namespace moult::poold
