// SPDX-License-Identifier: Apache-2.0
#ifndef MOULT_HOST_MEMORY_MAPPING_CHECK_H_
#define MOULT_HOST_MEMORY_MAPPING_CHECK_H_

#include "absl/status/status.h"
#include "memory/guest_memory.h"

namespace moult::host {

// Asks the kernel what is mapped at the region's hva, and whether pages of it can be given back to the host:
// what an embedder gets wrong here loses a guest's data, or keeps it, without a word.
absl::Status CheckMapping(const RegionConfig& region);

}  // namespace moult::host

#endif  // MOULT_HOST_MEMORY_MAPPING_CHECK_H_
