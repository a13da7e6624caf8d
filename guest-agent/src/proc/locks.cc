// SPDX-License-Identifier: Apache-2.0
#include "proc/locks.h"

#include "proc/text.h"

namespace moult::proc {
namespace {

LockKind KindOf(std::string_view word) {
  if (word == "POSIX") return LockKind::kPosix;
  if (word == "OFDLCK") return LockKind::kOfd;
  if (word == "FLOCK") return LockKind::kFlock;
  if (word == "LEASE") return LockKind::kLease;
  if (word == "DELEG") return LockKind::kDelegation;
  return LockKind::kOther;
}

LeaseState LeaseOf(std::string_view word) {
  if (word == "ACTIVE") return LeaseState::kActive;
  if (word == "BREAKING") return LeaseState::kBreaking;
  if (word == "BREAKER") return LeaseState::kBreaker;
  return LeaseState::kNotLease;
}

// Leases that are being given up show what they turn into, "UNLCK" among them.
bool AccessOf(std::string_view word, LockAccess* access) {
  if (word == "READ") {
    *access = LockAccess::kRead;
  } else if (word == "WRITE" || word == "RW") {
    *access = LockAccess::kWrite;
  } else if (word == "UNLCK" || word == "NONE") {
    *access = LockAccess::kNone;
  } else {
    return false;
  }
  return true;
}

// "fe:00:131", or "<none>:0" for a lock without a file.
bool ParseInode(Scanner& scanner, LockInfo& lock) {
  if (scanner.Blanks() && scanner.Literal("<none>:")) return scanner.Dec(&lock.inode);
  return scanner.Hex(&lock.dev_major) && scanner.Literal(':') && scanner.Hex(&lock.dev_minor) &&
         scanner.Literal(':') && scanner.Dec(&lock.inode);
}

bool ParseLockLine(std::string_view line, LockInfo& lock) {
  Scanner scanner(line);
  if (!scanner.Dec(&lock.id) || !scanner.Literal(':')) return false;
  scanner.Blanks();
  lock.waiting = scanner.Literal("->");
  std::string_view kind;
  std::string_view state;
  std::string_view access;
  if (!scanner.Word(&kind) || !scanner.Word(&state) || !scanner.Word(&access)) return false;
  lock.kind = KindOf(kind);
  lock.lease = LeaseOf(state);
  if (!AccessOf(access, &lock.access) || !scanner.Dec(&lock.pid) || !ParseInode(scanner, lock) ||
      !scanner.Dec(&lock.start) || !scanner.Literal(' ')) {
    return false;
  }
  if (!scanner.Literal("EOF") && !scanner.Dec(&lock.end)) return false;
  return scanner.AtEnd();
}

}  // namespace

absl::StatusOr<LockInfo> ParseLock(std::string_view line) {
  LockInfo lock;
  if (!ParseLockLine(line, lock)) return Malformed("lock", 1, line);
  return lock;
}

absl::StatusOr<std::vector<LockInfo>> ParseLocks(std::string_view text) {
  std::vector<LockInfo> locks;
  Lines lines(text);
  for (std::string_view line; lines.Next(&line);) {
    if (!ParseLockLine(line, locks.emplace_back())) return Malformed("locks", lines.number(), line);
  }
  return locks;
}

}  // namespace moult::proc
