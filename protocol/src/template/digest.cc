// SPDX-License-Identifier: Apache-2.0
// The functions without a provider: fetching one takes as long as all the rest of a small restore, and what a
// template's digest is must not depend on the machine's configuration.
#define OPENSSL_SUPPRESS_DEPRECATED

#include "moult/protocol/digest.h"

#include <openssl/sha.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

#include "absl/strings/escaping.h"
#include "moult/base/status.h"

namespace moult::image {
namespace {

// What is hashed begins with one of these, so that nothing passes as something else.
constexpr uint8_t kContent = 0;  // a page, or a chunk of version 1
constexpr uint8_t kNode = 1;     // two nodes of the tree
constexpr uint8_t kPages = 2;    // digests of a chunk's pages

Sha256Digest HashContent(Sha256* hash, absl::Span<const std::byte> content) {
  hash->Update(&kContent, 1);
  hash->Update(content.data(), content.size());
  return hash->Finish();
}

bool IsAt(const Sha256Digest& digest, absl::Span<const uint8_t> digests, uint64_t number) {
  if (number >= digests.size() / digest.size()) return false;
  return std::equal(digest.begin(), digest.end(), digests.begin() + static_cast<ptrdiff_t>(number * digest.size()));
}

Sha256Digest NodeDigest(Sha256* hash, const Sha256Digest& left, const Sha256Digest& right) {
  hash->Update(&kNode, 1);
  hash->Update(left.data(), left.size());
  hash->Update(right.data(), right.size());
  return hash->Finish();
}

}  // namespace

struct Sha256::State {
  SHA256_CTX context;
  void Start() { SHA256_Init(&context); }
};

Sha256::Sha256() : state_(std::make_unique<State>()) { state_->Start(); }
Sha256::~Sha256() = default;

void Sha256::Update(const void* data, size_t size) { SHA256_Update(&state_->context, data, size); }

Sha256Digest Sha256::Finish() {
  Sha256Digest digest;
  SHA256_Final(digest.data(), &state_->context);
  state_->Start();
  return digest;
}

Sha256Digest Sha256Of(std::string_view data) {
  Sha256 hash;
  hash.Update(data.data(), data.size());
  return hash.Finish();
}

std::string DigestHex(absl::Span<const uint8_t> digest) {
  return absl::BytesToHexString(std::string(digest.begin(), digest.end()));
}

Sha256Digest PageDigest(absl::Span<const std::byte> page) {
  Sha256 hash;
  return HashContent(&hash, page);
}

Sha256Digest LeafOfPages(absl::Span<const uint8_t> page_digests) {
  Sha256 hash;
  hash.Update(&kPages, 1);
  hash.Update(page_digests.data(), page_digests.size());
  return hash.Finish();
}

Sha256Digest LeafDigest(uint32_t format_version, absl::Span<const std::byte> chunk) {
  Sha256 page;
  if (format_version < 2) return HashContent(&page, chunk);
  Sha256 leaf;
  leaf.Update(&kPages, 1);
  for (; !chunk.empty(); chunk.remove_prefix(std::min<size_t>(chunk.size(), kPageSize))) {
    const Sha256Digest digest = HashContent(&page, chunk.subspan(0, kPageSize));
    leaf.Update(digest.data(), digest.size());
  }
  return leaf.Finish();
}

bool PageLeaves::Match(absl::Span<const std::byte> chunk, uint64_t number) const {
  return IsAt(LeafDigest(format_version, chunk), digests, number);
}

bool PageLeaves::MatchPages(absl::Span<const uint8_t> page_digests, uint64_t number) const {
  return by_page() && IsAt(LeafOfPages(page_digests), digests, number);
}

Sha256Digest TreeRoot(absl::Span<const Sha256Digest> leaves) {
  if (leaves.empty()) return Sha256Of("");
  Sha256 hash;
  std::vector<Sha256Digest> level(leaves.begin(), leaves.end());
  while (level.size() > 1) {
    size_t out = 0;
    for (size_t i = 0; i + 1 < level.size(); i += 2) level[out++] = NodeDigest(&hash, level[i], level[i + 1]);
    if (level.size() % 2 != 0) level[out++] = level.back();
    level.resize(out);
  }
  return level[0];
}

Sha256Digest TreeRoot(absl::Span<const uint8_t> leaves) {
  std::vector<Sha256Digest> copy(leaves.size() / sizeof(Sha256Digest));
  if (!copy.empty()) std::memcpy(copy.data(), leaves.data(), copy.size() * sizeof(Sha256Digest));
  return TreeRoot(copy);
}

absl::StatusOr<Sha256Digest> Sha256OfFile(int fd, const std::string& name) {
  Sha256 hash;
  std::vector<uint8_t> buffer(256 * 1024);
  off_t offset = 0;
  for (;;) {
    const ssize_t n = pread(fd, buffer.data(), buffer.size(), offset);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return ErrnoStatus(absl::StrCat("digest of ", name, ": pread at ", offset));
    if (n == 0) return hash.Finish();
    hash.Update(buffer.data(), static_cast<size_t>(n));
    offset += n;
  }
}

}  // namespace moult::image
