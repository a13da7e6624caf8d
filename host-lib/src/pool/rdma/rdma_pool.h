// SPDX-License-Identifier: Apache-2.0
//
// The `rdma:` pool: templates in the memory of a memory node that runs moult-poold, read by one-sided RDMA
// READ, which costs that node's CPU nothing. rdma-core is loaded when the first such pool is opened (api.h),
// so that the library needs it on hosts alone that use one.
#ifndef MOULT_HOST_POOL_RDMA_RDMA_POOL_H_
#define MOULT_HOST_POOL_RDMA_RDMA_POOL_H_

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "pool/rdma/auth.h"
#include "pool/template_pool.h"
#include "pool/uri.h"

namespace moult::host {

struct RdmaPoolOptions {
  // Connections with each memory node at most, each with a queue pair and 2 MiB of registered memory. As many
  // calls run at once.
  unsigned connections = 4;
};

// Where `uri` names several nodes, the first one that answers serves a call. A template
// is read from where it was opened; after an error or a timeout from another node that has one of the same
// name with the same digest. A node that does not answer may use half of what is left of a call's time. Push
// and Remove are of the first node alone, List and Use of the first that answers: nodes do not tell each
// other anything.
//
// Connects when it is used, and again after an error, so no call's error is for good but for those that say
// so. Starts no threads. kInvalidArgument; kFailedPrecondition: no RDMA device, or no rdma-core, with what to
// do.
absl::StatusOr<std::shared_ptr<TemplatePool>> OpenRdmaPool(const PoolUri& uri, const rdma::TenantKey& key,
                                                           const RdmaPoolOptions& options = {});
// The key of `access.tenant` in `access.key_file`. kInvalidArgument: no file is named; kNotFound: it is not there.
absl::StatusOr<rdma::TenantKey> KeyOf(const PoolUri& uri, const PoolAccess& access);
// With that key.
absl::StatusOr<std::shared_ptr<TemplatePool>> OpenRdmaTemplates(const PoolUri& uri, const PoolAccess& access);

}  // namespace moult::host

#endif  // MOULT_HOST_POOL_RDMA_RDMA_POOL_H_
