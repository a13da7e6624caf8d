// SPDX-License-Identifier: Apache-2.0
//
// /proc/PID/stat and /proc/PID/task/TID/stat. Addresses and exit_code read as 0 without ptrace access.
#ifndef MOULT_PROC_STAT_H_
#define MOULT_PROC_STAT_H_

#include <sys/types.h>

#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace moult::proc {

struct Stat {
  pid_t pid = 0;
  std::string comm;
  char state = 0;
  pid_t ppid = 0;
  pid_t pgrp = 0;
  pid_t session = 0;
  int tty_nr = 0;  // 0: no controlling terminal
  pid_t tpgid = 0;
  uint32_t flags = 0;  // PF_*
  uint64_t utime = 0;  // clock ticks
  uint64_t stime = 0;
  int64_t priority = 0;
  int64_t nice = 0;
  int64_t num_threads = 0;
  uint64_t start_time = 0;  // clock ticks since boot
  uint64_t vsize = 0;       // bytes
  uint64_t start_code = 0;
  uint64_t end_code = 0;
  uint64_t start_stack = 0;
  int exit_signal = 0;
  int processor = 0;
  uint32_t rt_priority = 0;
  uint32_t policy = 0;  // SCHED_*
  uint64_t start_data = 0;
  uint64_t end_data = 0;
  uint64_t start_brk = 0;
  uint64_t arg_start = 0;
  uint64_t arg_end = 0;
  uint64_t env_start = 0;
  uint64_t env_end = 0;
  int exit_code = 0;  // wait(2) status
};

absl::StatusOr<Stat> ParseStat(std::string_view text);

}  // namespace moult::proc

#endif  // MOULT_PROC_STAT_H_
