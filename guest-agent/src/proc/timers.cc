// SPDX-License-Identifier: Apache-2.0
#include "proc/timers.h"

#include <signal.h>

#include "absl/strings/str_cat.h"
#include "proc/text.h"

namespace moult::proc {
namespace {

// "14/000000000000002a"; the kernel prints the value as a pointer.
bool ParseSignal(Scanner& value, PosixTimer& timer) {
  if (!value.Dec(&timer.signo) || !value.Literal('/')) return false;
  value.Literal("0x");
  return value.Hex(&timer.sigval) && value.AtEnd();
}

// "signal/pid.1234", "none/pid.1234", "thread/pid.1", "signal/tid.1235"
bool ParseNotify(Scanner& value, PosixTimer& timer) {
  if (value.Literal("signal/")) {
    timer.notify = SIGEV_SIGNAL;
  } else if (value.Literal("none/")) {
    timer.notify = SIGEV_NONE;
  } else if (value.Literal("thread/")) {
    timer.notify = SIGEV_THREAD;
  } else {
    return false;
  }
  timer.thread = value.Literal("tid.");
  if (!timer.thread && !value.Literal("pid.")) return false;
  return value.Dec(&timer.target) && value.AtEnd();
}

enum Seen : unsigned { kSignal = 1, kNotify = 2, kClock = 4, kAll = 7 };

bool ParseProperty(std::string_view key, Scanner& value, PosixTimer& timer, unsigned* seen) {
  if (key == "signal") {
    *seen |= kSignal;
    return ParseSignal(value, timer);
  }
  if (key == "notify") {
    *seen |= kNotify;
    return ParseNotify(value, timer);
  }
  if (key == "ClockID") {
    *seen |= kClock;
    return value.Dec(&timer.clock) && value.AtEnd();
  }
  return true;
}

}  // namespace

absl::StatusOr<std::vector<PosixTimer>> ParseTimers(std::string_view text) {
  std::vector<PosixTimer> timers;
  unsigned seen = kAll;
  Lines lines(text);
  for (std::string_view line; lines.Next(&line);) {
    std::string_view key;
    std::string_view rest;
    if (!SplitKey(line, &key, &rest)) continue;
    Scanner value(rest);
    if (key == "ID") {
      if (seen != kAll) break;
      seen = 0;
      if (!value.Dec(&timers.emplace_back().id) || !value.AtEnd()) {
        return Malformed("timers", lines.number(), line);
      }
    } else if (timers.empty() || !ParseProperty(key, value, timers.back(), &seen)) {
      return Malformed("timers", lines.number(), line);
    }
  }
  if (seen != kAll) return Incomplete("timers", absl::StrCat("timer ", timers.back().id, " is cut short"));
  return timers;
}

}  // namespace moult::proc
