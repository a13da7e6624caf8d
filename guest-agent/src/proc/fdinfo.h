// SPDX-License-Identifier: Apache-2.0
//
// /proc/PID/fdinfo/N: position, flags and locks of a descriptor, and what the kind of file adds.
#ifndef MOULT_PROC_FDINFO_H_
#define MOULT_PROC_FDINFO_H_

#include <sys/types.h>

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "proc/locks.h"

namespace moult::proc {

struct EventFdInfo {
  uint64_t count = 0;
  int id = 0;
  std::optional<bool> semaphore;  // since 6.5
};

struct EpollInfo {
  int tfd = 0;  // number under which it was added; may since be closed or another file
  uint32_t events = 0;
  uint64_t data = 0;
  int64_t pos = 0;
  uint64_t ino = 0;   // of the file that was added
  uint32_t sdev = 0;  // s_dev in the kernel's own form: major << 20 | minor
};

struct TimerFdInfo {
  int clockid = 0;
  uint64_t ticks = 0;          // expirations not yet read
  uint32_t settime_flags = 0;  // TFD_TIMER_*
  uint64_t value_ns = 0;       // time left, 0: disarmed
  uint64_t interval_ns = 0;
};

struct InotifyInfo {
  int wd = 0;
  uint64_t ino = 0;
  uint32_t sdev = 0;  // as in EpollInfo
  uint32_t mask = 0;
  uint32_t ignored_mask = 0;
  int fhandle_type = 0;
  std::string fhandle;  // raw bytes for open_by_handle_at(2); empty where the kernel gives none
};

struct FdInfo {
  uint64_t pos = 0;
  uint32_t flags = 0;  // F_GETFL, and O_CLOEXEC of the descriptor
  int mnt_id = 0;
  uint64_t ino = 0;  // since 5.14, 0 before
  std::vector<LockInfo> locks;

  std::optional<EventFdInfo> eventfd;
  std::vector<EpollInfo> epoll;
  std::optional<TimerFdInfo> timerfd;
  std::optional<uint64_t> sigmask;  // signalfd: bit n-1 is signal n
  std::vector<InotifyInfo> inotify;
  std::optional<pid_t> pidfd_pid;   // 0: outside the reader's pid namespace, -1: has been reaped
  std::optional<uint32_t> scm_fds;  // unix socket: descriptors in its receive queue, since 5.11
};

absl::StatusOr<FdInfo> ParseFdInfo(std::string_view text);

}  // namespace moult::proc

#endif  // MOULT_PROC_FDINFO_H_
