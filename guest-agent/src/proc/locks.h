// SPDX-License-Identifier: Apache-2.0
//
// /proc/locks, and the "lock:" lines of /proc/PID/fdinfo/N, which have the same shape.
#ifndef MOULT_PROC_LOCKS_H_
#define MOULT_PROC_LOCKS_H_

#include <sys/types.h>

#include <cstdint>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace moult::proc {

enum class LockKind { kPosix, kOfd, kFlock, kLease, kDelegation, kOther };
enum class LockAccess { kRead, kWrite, kNone };
// Leases only; other kinds stay at kNotLease.
enum class LeaseState { kNotLease, kActive, kBreaking, kBreaker };

inline constexpr uint64_t kLockToEof = UINT64_MAX;

struct LockInfo {
  uint64_t id = 0;       // number of the line; a waiter has the number of the lock it waits for
  bool waiting = false;  // "->": blocked, does not hold the lock
  LockKind kind = LockKind::kOther;
  LockAccess access = LockAccess::kNone;
  LeaseState lease = LeaseState::kNotLease;
  pid_t pid = 0;  // -1 for OFD locks, 0 when outside the reader's pid namespace
  uint32_t dev_major = 0;
  uint32_t dev_minor = 0;
  uint64_t inode = 0;
  uint64_t start = 0;
  uint64_t end = kLockToEof;  // last byte, inclusive
};

// One lock without the "lock:" of fdinfo: "1: POSIX  ADVISORY  WRITE 42 fe:00:131 0 EOF".
absl::StatusOr<LockInfo> ParseLock(std::string_view line);

absl::StatusOr<std::vector<LockInfo>> ParseLocks(std::string_view text);

}  // namespace moult::proc

#endif  // MOULT_PROC_LOCKS_H_
