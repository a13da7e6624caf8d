// SPDX-License-Identifier: Apache-2.0
// The functions without a provider: fetching one takes as long as all the rest of a small restore, and what a
// template's digest is must not depend on the machine's configuration.
#define OPENSSL_SUPPRESS_DEPRECATED

#include "moult/protocol/digest.h"

#include <openssl/sha.h>
#include <unistd.h>

#include <cstring>

#include "absl/strings/escaping.h"
#include "moult/base/status.h"

namespace moult::image {
namespace {

Sha256Digest NodeDigest(Sha256* hash, const Sha256Digest& left, const Sha256Digest& right) {
  constexpr uint8_t kNode = 1;
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

Sha256Digest LeafDigest(absl::Span<const std::byte> chunk) {
  constexpr uint8_t kLeaf = 0;
  Sha256 hash;
  hash.Update(&kLeaf, 1);
  hash.Update(chunk.data(), chunk.size());
  return hash.Finish();
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
