// SPDX-License-Identifier: Apache-2.0
#ifndef MOULT_ADAPTERS_CONTROL_SERVER_LIMITS_H_
#define MOULT_ADAPTERS_CONTROL_SERVER_LIMITS_H_

#include <chrono>
#include <cstddef>

namespace moult::control {

inline constexpr size_t kMaxClients = 64;  // streams included
inline constexpr int kMaxPending = 16;     // calls of one client at a time
inline constexpr size_t kMaxRecent = 32;   // ended calls that `status` tells of
inline constexpr size_t kMaxNames = 4096;  // of functions, that are known between two lists of them
inline constexpr std::chrono::milliseconds kProgressEvery{500};
inline constexpr std::chrono::milliseconds kAcceptAgain{500};  // when the process had no descriptor left

// How long a call waits for what a policy does with its function: then that is cancelled, and after as long again the call
// begins all the same.
inline constexpr std::chrono::milliseconds kPolicyGivesWay{2000};

}  // namespace moult::control

#endif  // MOULT_ADAPTERS_CONTROL_SERVER_LIMITS_H_
