// SPDX-License-Identifier: Apache-2.0
#ifndef MOULT_ADAPTERS_CONTROL_SERVER_LIMITS_H_
#define MOULT_ADAPTERS_CONTROL_SERVER_LIMITS_H_

#include <chrono>
#include <cstddef>

namespace moult::control {

inline constexpr size_t kMaxClients = 64;  // streams included
inline constexpr int kMaxPending = 16;     // calls of one client at a time
inline constexpr size_t kMaxRecent = 32;   // ended calls that `status` tells of
inline constexpr std::chrono::milliseconds kProgressEvery{500};

}  // namespace moult::control

#endif  // MOULT_ADAPTERS_CONTROL_SERVER_LIMITS_H_
