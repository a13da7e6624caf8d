// SPDX-License-Identifier: Apache-2.0
#include "pool/dax/locks.h"

#include <fcntl.h>

#include <algorithm>
#include <cerrno>
#include <thread>

#include "absl/strings/str_cat.h"
#include "moult/base/status.h"

namespace moult::host {
namespace {

constexpr std::chrono::milliseconds kBetweenTries{5};

struct flock LockOf(short type, DaxRange range) {
  struct flock lock = {};
  lock.l_type = type;
  lock.l_whence = SEEK_SET;
  lock.l_start = static_cast<off_t>(range.at);
  lock.l_len = static_cast<off_t>(range.length);
  return lock;
}

}  // namespace

absl::Status LockRange(int fd, DaxRange range, DaxMedium::Clock::time_point deadline,
                       const std::string& path) {
  for (;;) {
    struct flock lock = LockOf(F_WRLCK, range);
    if (fcntl(fd, F_OFD_SETLK, &lock) == 0) return absl::OkStatus();
    if (errno != EAGAIN && errno != EACCES && errno != EINTR) return ErrnoStatus(absl::StrCat("lock ", path));
    const auto now = DaxMedium::Clock::now();
    if (now >= deadline) {
      return absl::DeadlineExceededError(
          absl::StrCat("lock ", path, ": another process writes to it; wait for it, or end it"));
    }
    std::this_thread::sleep_for(std::min<DaxMedium::Clock::duration>(kBetweenTries, deadline - now));
  }
}

void UnlockRange(int fd, DaxRange range) {
  struct flock lock = LockOf(F_UNLCK, range);
  (void)!fcntl(fd, F_OFD_SETLK, &lock);  // of what is locked it cannot fail
}

absl::Status HoldRange(int fd, DaxRange range, const std::string& path) {
  struct flock lock = LockOf(F_RDLCK, range);
  if (fcntl(fd, F_OFD_SETLK, &lock) == 0) return absl::OkStatus();
  return ErrnoStatus(absl::StrCat("hold ", range.length, " bytes at ", range.at, " of ", path));
}

absl::StatusOr<std::vector<DaxRange>> RangesHeld(int fd, DaxRange range, const std::string& path) {
  std::vector<DaxRange> held;
  std::vector<DaxRange> open{range};  // parts that are not looked at
  while (!open.empty()) {
    const DaxRange part = open.back();
    open.pop_back();
    if (part.length == 0) continue;
    struct flock lock = LockOf(F_WRLCK, part);
    if (fcntl(fd, F_OFD_GETLK, &lock) != 0) return ErrnoStatus(absl::StrCat("look at the locks of ", path));
    if (lock.l_type == F_UNLCK) continue;
    // Any of those that meet it, and not the first of them.
    const uint64_t first = std::max(part.at, static_cast<uint64_t>(lock.l_start));
    const uint64_t end =
        lock.l_len == 0 ? part.end() : std::min(part.end(), static_cast<uint64_t>(lock.l_start + lock.l_len));
    held.push_back({first, end - first});
    open.push_back({part.at, first - part.at});
    open.push_back({end, part.end() - end});
  }
  std::sort(held.begin(), held.end(), [](const DaxRange& a, const DaxRange& b) { return a.at < b.at; });
  return held;
}

}  // namespace moult::host
