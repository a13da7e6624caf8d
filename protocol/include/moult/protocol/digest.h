// SPDX-License-Identifier: Apache-2.0
//
// SHA-256 and the digest tree over `pages`. The byte-exact definition is in spec.md, "Digests".
#ifndef MOULT_PROTOCOL_DIGEST_H_
#define MOULT_PROTOCOL_DIGEST_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "moult/protocol/limits.h"

namespace moult::image {

using Sha256Digest = std::array<uint8_t, 32>;

// A running SHA-256. One thread at a time; aborts only when out of memory.
class Sha256 {
 public:
  Sha256();
  Sha256(const Sha256&) = delete;
  Sha256& operator=(const Sha256&) = delete;
  ~Sha256();

  void Update(const void* data, size_t size);
  // The digest of everything since construction or the last Finish; starts over.
  Sha256Digest Finish();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

Sha256Digest Sha256Of(std::string_view data);
std::string DigestHex(absl::Span<const uint8_t> digest);

// hash(0x00 || page).
Sha256Digest PageDigest(absl::Span<const std::byte> page);
// The leaf of a chunk whose pages have these digests, one after another: hash(0x02 || digests).
Sha256Digest LeafOfPages(absl::Span<const uint8_t> page_digests);
// The leaf of a chunk, which is whole pages, in a template of this format version: of its pages, or, in version 1,
// hash(0x00 || chunk).
Sha256Digest LeafDigest(uint32_t format_version, absl::Span<const std::byte> chunk);

// The root over leaves: inner nodes are hash(0x01 || left || right), an odd last node moves up unchanged, and no leaves
// at all give hash of nothing.
Sha256Digest TreeRoot(absl::Span<const Sha256Digest> leaves);
// The same for leaves lying one after another, as in Manifest.pages_leaves; size must be a multiple of 32.
Sha256Digest TreeRoot(absl::Span<const uint8_t> leaves);

// The leaves of a manifest that was checked, which must outlive it, and how they are made.
struct PageLeaves {
  uint32_t format_version = kFormatVersion;
  absl::Span<const uint8_t> digests;  // Manifest.pages_leaves

  // Whether a page can be checked without the rest of its chunk.
  bool by_page() const { return format_version >= 2; }
  // Whether a chunk is the one that leaf `number` is of. False also where there is no such leaf.
  bool Match(absl::Span<const std::byte> chunk, uint64_t number) const;
  // The same of the digests of its pages, where by_page().
  bool MatchPages(absl::Span<const uint8_t> page_digests, uint64_t number) const;
};

// The SHA-256 of a whole file from offset 0 to its end, which is read with pread(2): the position of `fd`
// stays. `name` is for messages.
absl::StatusOr<Sha256Digest> Sha256OfFile(int fd, const std::string& name);

}  // namespace moult::image

#endif  // MOULT_PROTOCOL_DIGEST_H_
