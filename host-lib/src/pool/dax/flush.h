// SPDX-License-Identifier: Apache-2.0
#ifndef MOULT_HOST_POOL_DAX_FLUSH_H_
#define MOULT_HOST_POOL_DAX_FLUSH_H_

#include <cstddef>
#include <cstdint>

namespace moult::host {

// Writes the cache lines of [at, at + length) back to memory, and waits until they are accepted there.
// Durable where the memory is, and where the mapping needs no help of a file system (devdax, MAP_SYNC).
void FlushLines(const std::byte* at, uint64_t length);

}  // namespace moult::host

#endif  // MOULT_HOST_POOL_DAX_FLUSH_H_
