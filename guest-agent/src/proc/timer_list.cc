// SPDX-License-Identifier: Apache-2.0
#include "proc/timer_list.h"

#include "proc/text.h"

namespace moult::proc {
namespace {

constexpr std::string_view kFile = "timer_list";

// " #3: <00000000d5558bb6>, hrtimer_wakeup, S:01"
bool ParseTimer(Scanner line, std::string_view* id, std::string_view* function) {
  int number;
  line.Blanks();
  return line.Literal('#') && line.Dec(&number) && line.Literal(':') && line.Word(id) && line.Word(function);
}

// " # expires at 10-20 nsecs [in 5 to 15 nsecs]"
bool ParseExpiry(Scanner line, WakeupTimer& timer) {
  int64_t hard;
  return line.Blanks() && line.Literal("# expires at") && line.Dec(&timer.expires_ns) && line.Literal('-') &&
         line.Dec(&hard) && line.Literal(" nsecs [in") && line.Dec(&timer.remaining_ns);
}

}  // namespace

absl::StatusOr<std::vector<WakeupTimer>> ParseTimerList(std::string_view text) {
  std::vector<WakeupTimer> timers;
  Lines lines(text);
  bool version = false;
  for (std::string_view line; lines.Next(&line);) {
    version |= line.substr(0, 19) == "Timer List Version:";
    std::string_view id;
    std::string_view function;
    if (!ParseTimer(Scanner(line), &id, &function) || function != "hrtimer_wakeup,") continue;
    WakeupTimer timer;
    timer.id = std::string(id.substr(0, id.size() - 1));
    if (!lines.Next(&line)) return Incomplete(kFile, "a timer has no expiry");
    if (!ParseExpiry(Scanner(line), timer)) return Malformed(kFile, lines.number(), line);
    timers.push_back(std::move(timer));
  }
  if (!version) return Incomplete(kFile, "no version");
  return timers;
}

}  // namespace moult::proc
