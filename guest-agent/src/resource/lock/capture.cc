// SPDX-License-Identifier: Apache-2.0
#include "resource/lock/capture.h"

namespace moult::engine {

absl::Status CaptureLocks(CaptureContext& context, const OpenDescription& description, image::OpenFileT& file) {
  for (const proc::LockInfo& seen : description.info.locks) {
    if (seen.waiting) continue;  // the blocked call is issued again
    auto lock = std::make_unique<image::FileLockT>();
    switch (seen.kind) {
      case proc::LockKind::kPosix:
        // fdinfo lists the process's POSIX locks at every description of the file.
        if (seen.pid != context.pid()) continue;
        lock->kind = image::LockKind::Posix;
        break;
      case proc::LockKind::kOfd:
        lock->kind = image::LockKind::Ofd;
        break;
      case proc::LockKind::kFlock:
        lock->kind = image::LockKind::Flock;
        break;
      default:
        return Refuse("it holds a file lease", "give the lease up (F_SETLEASE F_UNLCK) before the dump");
    }
    lock->write = seen.access == proc::LockAccess::kWrite;
    lock->start = seen.start;
    lock->length = seen.end == proc::kLockToEof ? 0 : seen.end - seen.start + 1;
    file.locks.push_back(std::move(lock));
  }
  return absl::OkStatus();
}

}  // namespace moult::engine
