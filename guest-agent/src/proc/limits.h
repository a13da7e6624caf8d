// SPDX-License-Identifier: Apache-2.0
//
// /proc/PID/limits.
#ifndef MOULT_PROC_LIMITS_H_
#define MOULT_PROC_LIMITS_H_

#include <sys/resource.h>

#include <array>
#include <cstdint>
#include <string_view>

#include "absl/status/statusor.h"

namespace moult::proc {

inline constexpr int kLimitCount = 16;

struct Limit {
  uint64_t soft = RLIM_INFINITY;
  uint64_t hard = RLIM_INFINITY;

  bool operator==(const Limit&) const = default;
};

// By RLIMIT_* number; all sixteen must be there.
using Limits = std::array<Limit, kLimitCount>;

absl::StatusOr<Limits> ParseLimits(std::string_view text);

}  // namespace moult::proc

#endif  // MOULT_PROC_LIMITS_H_
