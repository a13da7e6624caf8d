// SPDX-License-Identifier: Apache-2.0
//
// Who a client of a memory node is: a tenant, by a key that both hold. Each proves to the other that it has the key,
// over random numbers of both and the two queue pairs, so that a proof is good for this connection alone. What is read
// and written afterwards is neither encrypted nor sealed: the fabric is trusted not to change it, and readers hold pages
// against the manifest.
#ifndef MOULT_HOST_POOL_RDMA_AUTH_H_
#define MOULT_HOST_POOL_RDMA_AUTH_H_

#include <array>
#include <cstdint>
#include <string>
#include "absl/strings/string_view.h"
#include <vector>

#include "absl/status/statusor.h"
#include "pool/rdma/messages.h"

namespace moult::host::rdma {

struct TenantKey {
  std::string tenant;  // empty: templates without a tenant
  std::array<uint8_t, 32> key;
  bool read_only = false;  // may neither push nor remove
};

// A key file: a line for each tenant, "NAME 64-HEX-DIGITS [read-only]", NAME "-" for templates without a tenant; empty
// lines and lines that begin with # count for nothing. kInvalidArgument names the line, never its key.
absl::StatusOr<std::vector<TenantKey>> ParseKeys(absl::string_view text);
// kPermissionDenied: others than its owner may read it.
absl::StatusOr<std::vector<TenantKey>> ReadKeyFile(const std::string& path);
// The key of a tenant. kNotFound.
absl::StatusOr<TenantKey> FindKey(const std::vector<TenantKey>& keys, const std::string& tenant);

// What a connection request says instead of the name.
TenantId IdOf(const std::string& tenant);

struct Handshake {
  TenantId tenant;
  Nonce client_nonce;
  Nonce server_nonce;
  uint32_t client_queue_pair = 0;
  uint32_t server_queue_pair = 0;
};
// HMAC-SHA256. The two differ in what they are computed over, so that neither can be played back as the other.
Mac ClientProof(const TenantKey& key, const Handshake& handshake);
Mac ServerProof(const TenantKey& key, const Handshake& handshake);
// In constant time.
bool SameMac(const Mac& a, const Mac& b);

// From the kernel's random numbers.
Nonce RandomNonce();

}  // namespace moult::host::rdma

#endif  // MOULT_HOST_POOL_RDMA_AUTH_H_
