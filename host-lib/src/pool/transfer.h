// SPDX-License-Identifier: Apache-2.0
//
// Whole templates out of a pool.
#ifndef MOULT_HOST_POOL_TRANSFER_H_
#define MOULT_HOST_POOL_TRANSFER_H_

#include <string>

#include "absl/status/status.h"
#include "pool/file/store.h"
#include "pool/template_pool.h"
#include "pool/transfer_progress.h"

namespace moult::host {

// Every byte is checked on its way; all or nothing. Blocks. kAlreadyExists; kDataLoss: damaged in the pool.
absl::Status Pull(TemplatePool& pool, const std::string& name, Store* store,
                  TemplatePool::Clock::time_point deadline, const TransferProgress& progress);
// The same without keeping anything.
absl::Status VerifyRemote(TemplatePool& pool, const std::string& name,
                          TemplatePool::Clock::time_point deadline, const TransferProgress& progress);

}  // namespace moult::host

#endif  // MOULT_HOST_POOL_TRANSFER_H_
