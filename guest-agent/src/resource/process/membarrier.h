// SPDX-License-Identifier: Apache-2.0
#ifndef MOULT_RESOURCE_PROCESS_MEMBARRIER_H_
#define MOULT_RESOURCE_PROCESS_MEMBARRIER_H_

namespace moult::engine {

// MEMBARRIER_CMD_GET_REGISTRATIONS, Linux 6.3; Debian 12's headers are older.
inline constexpr int kMembarrierGetRegistrations = 1 << 9;

}  // namespace moult::engine

#endif  // MOULT_RESOURCE_PROCESS_MEMBARRIER_H_
