// SPDX-License-Identifier: Apache-2.0
//
// /proc/PID/timens_offsets: by how much the clocks of the time namespace for children are moved.
#ifndef MOULT_PROC_TIMENS_H_
#define MOULT_PROC_TIMENS_H_

#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace moult::proc {

struct TimensOffset {
  int64_t seconds = 0;
  int64_t nanoseconds = 0;  // 0..999999999, also when `seconds` is negative

  bool operator==(const TimensOffset&) const = default;
};

struct TimensOffsets {
  TimensOffset monotonic;
  TimensOffset boottime;

  bool operator==(const TimensOffsets&) const = default;
};

absl::StatusOr<TimensOffsets> ParseTimensOffsets(std::string_view text);

// The text to write into the file.
std::string FormatTimensOffsets(const TimensOffsets& offsets);

}  // namespace moult::proc

#endif  // MOULT_PROC_TIMENS_H_
