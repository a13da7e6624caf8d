// SPDX-License-Identifier: Apache-2.0
#include "proc/timens.h"

#include "absl/strings/str_format.h"
#include "proc/text.h"

namespace moult::proc {
namespace {

bool ParseLine(std::string_view line, TimensOffset& offset) {
  constexpr int64_t kNsPerSecond = 1000000000;
  Scanner scanner(line);
  return scanner.Dec(&offset.seconds) && scanner.Literal(' ') && scanner.Dec(&offset.nanoseconds) &&
         scanner.AtEnd() && offset.nanoseconds >= 0 && offset.nanoseconds < kNsPerSecond;
}

}  // namespace

absl::StatusOr<TimensOffsets> ParseTimensOffsets(std::string_view text) {
  TimensOffsets offsets;
  bool has_monotonic = false;
  bool has_boottime = false;
  Lines lines(text);
  for (std::string_view line; lines.Next(&line);) {
    Scanner scanner(line);
    std::string_view clock;
    if (!scanner.Word(&clock)) continue;
    TimensOffset* offset = nullptr;
    // Kernels up to 5.9 print the number of the clock.
    if (clock == "monotonic" || clock == "1") {
      offset = &offsets.monotonic;
      has_monotonic = true;
    } else if (clock == "boottime" || clock == "7") {
      offset = &offsets.boottime;
      has_boottime = true;
    } else {
      continue;
    }
    if (!ParseLine(scanner.rest(), *offset)) return Malformed("timens_offsets", lines.number(), line);
  }
  if (!has_monotonic) return Incomplete("timens_offsets", "no monotonic line");
  if (!has_boottime) return Incomplete("timens_offsets", "no boottime line");
  return offsets;
}

std::string FormatTimensOffsets(const TimensOffsets& offsets) {
  return absl::StrFormat("monotonic %d %d\nboottime %d %d\n", offsets.monotonic.seconds,
                         offsets.monotonic.nanoseconds, offsets.boottime.seconds,
                         offsets.boottime.nanoseconds);
}

}  // namespace moult::proc
