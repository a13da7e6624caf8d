// SPDX-License-Identifier: Apache-2.0
#include "proc/limits.h"

#include "absl/strings/str_cat.h"
#include "proc/text.h"

namespace moult::proc {
namespace {

// By RLIMIT_* number.
constexpr std::array<std::string_view, kLimitCount> kNames = {
    "Max cpu time",       "Max file size",     "Max data size",         "Max stack size",
    "Max core file size", "Max resident set",  "Max processes",         "Max open files",
    "Max locked memory",  "Max address space", "Max file locks",        "Max pending signals",
    "Max msgqueue size",  "Max nice priority", "Max realtime priority", "Max realtime timeout",
};
static_assert(RLIMIT_CPU == 0 && RLIMIT_NOFILE == 7 && RLIMIT_RTTIME == 15 && RLIM_NLIMITS == kLimitCount);

bool ParseValue(Scanner& scanner, uint64_t* value) {
  scanner.Blanks();
  if (!scanner.Literal("unlimited")) return scanner.Dec(value);
  *value = RLIM_INFINITY;
  return true;
}

}  // namespace

absl::StatusOr<Limits> ParseLimits(std::string_view text) {
  Limits limits;
  std::array<bool, kLimitCount> seen{};
  Lines lines(text);
  for (std::string_view line; lines.Next(&line);) {
    for (size_t i = 0; i < kNames.size(); ++i) {
      Scanner scanner(line);
      // No name is the beginning of another one, so the blank behind it decides.
      if (!scanner.Literal(kNames[i]) || !scanner.Literal(' ')) continue;
      if (!ParseValue(scanner, &limits[i].soft) || !scanner.Literal(' ') ||
          !ParseValue(scanner, &limits[i].hard) || (!scanner.AtEnd() && !scanner.Literal(' '))) {
        return Malformed("limits", lines.number(), line);
      }
      seen[i] = true;
    }
  }
  for (size_t i = 0; i < seen.size(); ++i) {
    if (!seen[i]) return Incomplete("limits", absl::StrCat("no \"", ToAbsl(kNames[i]), "\" line"));
  }
  return limits;
}

}  // namespace moult::proc
