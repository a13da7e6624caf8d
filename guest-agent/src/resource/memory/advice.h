// SPDX-License-Identifier: Apache-2.0
#ifndef MOULT_RESOURCE_MEMORY_ADVICE_H_
#define MOULT_RESOURCE_MEMORY_ADVICE_H_

#include <cstdint>
#include <vector>

#include "proc/maps.h"

namespace moult::engine {

// The MADV_* calls that bring a fresh mapping to the flags that `entry` shows.
std::vector<uint8_t> AdviceOf(const proc::SmapsEntry& entry);

}  // namespace moult::engine

#endif  // MOULT_RESOURCE_MEMORY_ADVICE_H_
