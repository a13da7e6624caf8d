// SPDX-License-Identifier: Apache-2.0
#include "proc/stat.h"

#include "proc/text.h"

namespace moult::proc {
namespace {

// Passes over `count` numbers, signed or not.
bool Skip(Scanner& scanner, int count) {
  std::string_view word;
  for (int i = 0; i < count; ++i) {
    if (!scanner.Word(&word)) return false;
  }
  return true;
}

// Fields 3 to 52 of proc(5), which follow the comm.
bool ParseFields(Scanner& s, Stat& stat) {
  return s.Literal(' ') && s.Char(&stat.state) && s.Dec(&stat.ppid) && s.Dec(&stat.pgrp) &&
         s.Dec(&stat.session) && s.Dec(&stat.tty_nr) && s.Dec(&stat.tpgid) && s.Dec(&stat.flags) &&
         Skip(s, 4) && s.Dec(&stat.utime) && s.Dec(&stat.stime) && Skip(s, 2) && s.Dec(&stat.priority) &&
         s.Dec(&stat.nice) && s.Dec(&stat.num_threads) && Skip(s, 1) && s.Dec(&stat.start_time) &&
         s.Dec(&stat.vsize) && Skip(s, 2) && s.Dec(&stat.start_code) && s.Dec(&stat.end_code) &&
         s.Dec(&stat.start_stack) && Skip(s, 9) && s.Dec(&stat.exit_signal) && s.Dec(&stat.processor) &&
         s.Dec(&stat.rt_priority) && s.Dec(&stat.policy) && Skip(s, 3) && s.Dec(&stat.start_data) &&
         s.Dec(&stat.end_data) && s.Dec(&stat.start_brk) && s.Dec(&stat.arg_start) && s.Dec(&stat.arg_end) &&
         s.Dec(&stat.env_start) && s.Dec(&stat.env_end) && s.Dec(&stat.exit_code);
}

}  // namespace

absl::StatusOr<Stat> ParseStat(std::string_view text) {
  Stat stat;
  Scanner scanner(text);
  // The comm may hold ')' and spaces; nothing behind it can hold a ')'.
  const size_t close = text.rfind(')');
  if (!scanner.Dec(&stat.pid) || !scanner.Literal(" (") || close == std::string_view::npos) {
    return Malformed("stat", 1, text);
  }
  const size_t open = text.size() - scanner.rest().size();
  if (close < open) return Malformed("stat", 1, text);
  // Unlike in status nothing is escaped here, newlines neither.
  stat.comm = text.substr(open, close - open);
  std::string_view fields = text.substr(close + 1);
  if (fields.ends_with('\n')) fields.remove_suffix(1);
  Scanner rest(fields);
  if (!ParseFields(rest, stat)) return Malformed("stat", 1, text);
  return stat;
}

}  // namespace moult::proc
