// SPDX-License-Identifier: Apache-2.0
//
// Files of /proc/PID that hold one line: a number, or a few.
#ifndef MOULT_PROC_VALUES_H_
#define MOULT_PROC_VALUES_H_

#include <array>
#include <cstdint>
#include <optional>
#include <string_view>

#include "absl/status/statusor.h"

namespace moult::proc {

// personality, coredump_filter: hexadecimal, no prefix. `file` is for the error.
absl::StatusOr<uint32_t> ParseHexFile(std::string_view file, std::string_view text);

// oom_score_adj.
absl::StatusOr<int32_t> ParseDecimalFile(std::string_view file, std::string_view text);

// task/TID/schedstat: how often it was put on a CPU, the third of its numbers; 0 where the kernel does not
// count.
absl::StatusOr<uint64_t> ParseSchedstatRuns(std::string_view text);

// task/TID/syscall of a thread that sleeps in a system call.
struct SleepingCall {
  int64_t number = 0;
  std::array<uint64_t, 6> arguments{};
  uint64_t stack_pointer = 0;
  uint64_t instruction_pointer = 0;

  bool operator==(const SleepingCall&) const = default;
};
// nullopt: it is running, or sleeps in none ("running", "-1 0xsp 0xpc").
absl::StatusOr<std::optional<SleepingCall>> ParseSyscall(std::string_view text);

}  // namespace moult::proc

#endif  // MOULT_PROC_VALUES_H_
