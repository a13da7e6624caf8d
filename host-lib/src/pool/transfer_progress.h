// SPDX-License-Identifier: Apache-2.0
#ifndef MOULT_HOST_POOL_TRANSFER_PROGRESS_H_
#define MOULT_HOST_POOL_TRANSFER_PROGRESS_H_

#include <cstdint>
#include <functional>

namespace moult::host {

// Bytes of a template's pages: more each time, and all in the end, if that goes well. Of none nothing is told.
using TransferProgress = std::function<void(uint64_t done, uint64_t total)>;  // empty: nobody wants to know

}  // namespace moult::host

#endif  // MOULT_HOST_POOL_TRANSFER_PROGRESS_H_
