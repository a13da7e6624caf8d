// SPDX-License-Identifier: Apache-2.0
//
// The `dax:` pool: templates in byte-addressable memory, mapped from where they lie.
#ifndef MOULT_HOST_POOL_DAX_DAX_TEMPLATES_H_
#define MOULT_HOST_POOL_DAX_DAX_TEMPLATES_H_

#include <memory>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "pool/template_pool.h"

namespace moult::host {

struct PoolAccess;
struct PoolUri;

// The device or file must be formatted. Who may open it is the file system's to say.
absl::StatusOr<std::shared_ptr<TemplatePool>> OpenDaxTemplates(const PoolUri& uri, const PoolAccess& access);

// Makes an empty pool. `size` 0: all of the device or file, which must be there; else a file that is not
// there is made. Errors: FormatDax.
absl::Status FormatDaxTemplates(const PoolUri& uri, uint64_t size, bool force, Clock::time_point deadline);

}  // namespace moult::host

#endif  // MOULT_HOST_POOL_DAX_DAX_TEMPLATES_H_
