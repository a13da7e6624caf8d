// SPDX-License-Identifier: Apache-2.0
#include "pool/rdma/auth.h"

#include <fcntl.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "moult/base/status.h"
#include "moult/base/unique_fd.h"
#include "moult/protocol/limits.h"

namespace moult::host::rdma {
namespace {

constexpr size_t kMaxKeyFile = 1 << 20;
constexpr char kNoTenant[] = "-";

absl::Status BadLine(size_t number, absl::string_view why) {
  return absl::InvalidArgumentError(
      absl::StrCat("line ", number, ": ", why, "; write TENANT KEY [read-only], the key as 64 hex digits (openssl rand -hex 32)"));
}

absl::StatusOr<TenantKey> ParseLine(size_t number, absl::string_view line) {
  const std::vector<std::string> words = absl::StrSplit(line, absl::ByAnyChar(" \t"), absl::SkipEmpty());
  if (words.size() < 2 || words.size() > 3) return BadLine(number, "has not two or three words");
  TenantKey key;
  if (words[0].size() > image::kMaxTenant) return BadLine(number, "the tenant's name is too long");
  if (words[0] != kNoTenant) key.tenant = words[0];
  const auto is_hex = [](char c) { return absl::ascii_isxdigit(static_cast<unsigned char>(c)); };
  if (words[1].size() != 2 * key.key.size() || !std::all_of(words[1].begin(), words[1].end(), is_hex)) {
    return BadLine(number, "the key is none");
  }
  const std::string bytes = absl::HexStringToBytes(words[1]);
  std::copy(bytes.begin(), bytes.end(), key.key.begin());
  key.read_only = words.size() == 3;
  if (key.read_only && words[2] != "read-only") return BadLine(number, "its third word is not read-only");
  return key;
}

Mac Prove(const TenantKey& key, const char* who, const Handshake& handshake) {
  std::string text(who);
  text.append(handshake.tenant.begin(), handshake.tenant.end());
  text.append(handshake.client_nonce.begin(), handshake.client_nonce.end());
  text.append(handshake.server_nonce.begin(), handshake.server_nonce.end());
  for (const uint32_t number : {handshake.client_queue_pair, handshake.server_queue_pair}) {
    for (int shift = 0; shift < 32; shift += 8) text.push_back(static_cast<char>(number >> shift));
  }
  Mac mac{};
  unsigned size = 0;
  // SAFETY: bytes as bytes, for the sizes given; SHA-256 writes as many as a Mac has.
  HMAC(EVP_sha256(), key.key.data(), static_cast<int>(key.key.size()),
       reinterpret_cast<const unsigned char*>(text.data()), text.size(), mac.data(), &size);
  return mac;
}

}  // namespace

absl::StatusOr<std::vector<TenantKey>> ParseKeys(absl::string_view text) {
  std::vector<TenantKey> keys;
  size_t number = 0;
  for (absl::string_view line : absl::StrSplit(text, '\n')) {
    ++number;
    line = absl::StripAsciiWhitespace(line);
    if (line.empty() || line.front() == '#') continue;
    MOULT_ASSIGN_OR_RETURN(TenantKey key, ParseLine(number, line));
    if (FindKey(keys, key.tenant).ok()) return BadLine(number, "the tenant has a key already");
    keys.push_back(std::move(key));
  }
  if (keys.empty()) return absl::InvalidArgumentError("holds no key; write TENANT KEY, the key as 64 hex digits");
  return keys;
}

absl::StatusOr<std::vector<TenantKey>> ReadKeyFile(const std::string& path) {
  const std::string context = absl::StrCat("key file ", path);
  const UniqueFd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  struct stat info;
  if (!fd.valid() || fstat(fd.get(), &info) != 0) return ErrnoStatus(context);
  if (!S_ISREG(info.st_mode)) return absl::InvalidArgumentError(absl::StrCat(context, ": is no file"));
  if ((info.st_mode & 077) != 0) {
    return absl::PermissionDeniedError(absl::StrCat(context, ": others may read it; chmod 600 ", path, ", and make new keys"));
  }
  if (static_cast<uint64_t>(info.st_size) > kMaxKeyFile) {
    return absl::InvalidArgumentError(absl::StrCat(context, ": has more than ", kMaxKeyFile, " bytes"));
  }
  std::string text(static_cast<size_t>(info.st_size), '\0');
  const ssize_t got = pread(fd.get(), text.data(), text.size(), 0);
  if (got < 0) return ErrnoStatus(context);
  text.resize(static_cast<size_t>(got));
  auto keys = ParseKeys(text);
  OPENSSL_cleanse(text.data(), text.size());
  if (!keys.ok()) return Annotate(keys.status(), context);
  return keys;
}

absl::StatusOr<TenantKey> FindKey(const std::vector<TenantKey>& keys, const std::string& tenant) {
  const auto found = std::find_if(keys.begin(), keys.end(), [&](const TenantKey& key) { return key.tenant == tenant; });
  if (found == keys.end()) {
    return absl::NotFoundError(absl::StrCat("no key for tenant \"", tenant, "\"; add a line to the key file"));
  }
  return *found;
}

TenantId IdOf(const std::string& tenant) {
  const image::Sha256Digest digest = image::Sha256Of(absl::StrCat("moult tenant ", tenant));
  TenantId id;
  std::copy_n(digest.begin(), id.size(), id.begin());
  return id;
}

Mac ClientProof(const TenantKey& key, const Handshake& handshake) { return Prove(key, "moult rdma client", handshake); }
Mac ServerProof(const TenantKey& key, const Handshake& handshake) { return Prove(key, "moult rdma server", handshake); }

bool SameMac(const Mac& a, const Mac& b) { return CRYPTO_memcmp(a.data(), b.data(), a.size()) == 0; }

Nonce RandomNonce() {
  Nonce nonce{};
  size_t have = 0;
  while (have < nonce.size()) {  // Only a signal, before the kernel has its first random numbers, makes it short.
    const ssize_t got = getrandom(nonce.data() + have, nonce.size() - have, 0);
    if (got > 0) have += static_cast<size_t>(got);
  }
  return nonce;
}

}  // namespace moult::host::rdma
