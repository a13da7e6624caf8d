// SPDX-License-Identifier: Apache-2.0
#ifndef MOULT_POOLD_DOMAINS_H_
#define MOULT_POOLD_DOMAINS_H_

#include <map>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "moult/base/status.h"
#include "pool/rdma/auth.h"
#include "pool/rdma/verbs.h"

namespace moult::poold {

// A protection domain for each tenant on each device: a memory region's key is worth something on queue pairs of its own
// domain alone, so the tenant's. Main thread only.
class Domains {
 public:
  explicit Domains(std::vector<host::rdma::TenantKey> keys) : keys_(std::move(keys)) {}

  // The tenant that a connection request is of. Null: unknown; it is then let fail as a wrong key is, so that nobody
  // learns which tenants there are.
  const host::rdma::TenantKey* Find(const host::rdma::TenantId& id) const {
    for (const auto& key : keys_) {
      if (host::rdma::IdOf(key.tenant) == id) return &key;
    }
    return nullptr;
  }

  absl::StatusOr<ibv_pd*> Of(ibv_context* device, const host::rdma::TenantKey* tenant) {
    host::rdma::ProtectionDomain& domain = domains_[{device, tenant}];
    if (domain == nullptr) {
      MOULT_ASSIGN_OR_RETURN(const host::rdma::Api* api, host::rdma::LoadApi());
      domain.reset(api->alloc_pd(device));
      if (domain == nullptr) return ErrnoStatus("allocate a protection domain");
    }
    return domain.get();
  }

 private:
  const std::vector<host::rdma::TenantKey> keys_;
  std::map<std::pair<ibv_context*, const host::rdma::TenantKey*>, host::rdma::ProtectionDomain> domains_;
};

}  // namespace moult::poold

#endif  // MOULT_POOLD_DOMAINS_H_
