// SPDX-License-Identifier: Apache-2.0
//
// A store's folder as a pool: what lies on a file system that other hosts share.
#ifndef MOULT_HOST_POOL_FILE_FILE_TEMPLATES_H_
#define MOULT_HOST_POOL_FILE_FILE_TEMPLATES_H_

#include <memory>

#include "absl/status/statusor.h"
#include "pool/template_pool.h"

namespace moult::host {

struct PoolAccess;
struct PoolUri;

// The folder must be there. Who may read it is the file system's to say.
// `access.threads` do what may block, if there are such and the folder is no memory. Without them a call looks at its deadline
// between system calls: a file system that hangs makes its callers hang.
absl::StatusOr<std::shared_ptr<TemplatePool>> OpenFileTemplates(const PoolUri& uri, const PoolAccess& access);

}  // namespace moult::host

#endif  // MOULT_HOST_POOL_FILE_FILE_TEMPLATES_H_
