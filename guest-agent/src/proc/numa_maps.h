// SPDX-License-Identifier: Apache-2.0
//
// /proc/PID/numa_maps (CONFIG_NUMA): the memory policy of each mapping.
#ifndef MOULT_PROC_NUMA_MAPS_H_
#define MOULT_PROC_NUMA_MAPS_H_

#include <set>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace moult::proc {

// Those that are there ("default", "bind:0", ...), each once. A mapping that has none of its own (mbind) shows the
// thread's.
absl::StatusOr<std::set<std::string>> ParseNumaPolicies(std::string_view text);

}  // namespace moult::proc

#endif  // MOULT_PROC_NUMA_MAPS_H_
