// SPDX-License-Identifier: Apache-2.0
//
// Locks on ranges of a device node or file, by open file description (F_OFD_SETLK). They need nothing of the
// kind of file, so they work on a character device, and are those of its inode: all processes must open the
// same node (a container gets it by bind mount, not by a mknod of its own). A lock goes when the last
// descriptor *and the last mapping* made through it are gone, since a mapping keeps its file open: so a
// template is held for exactly as long as it can be seen anywhere, and by no process that has died.
#ifndef MOULT_HOST_POOL_DAX_LOCKS_H_
#define MOULT_HOST_POOL_DAX_LOCKS_H_

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "pool/dax/medium.h"

namespace moult::host {

// Exclusive; HoldRange: shared. kDeadlineExceeded: somebody else has a part of it.
absl::Status LockRange(int fd, DaxRange range, DaxMedium::Clock::time_point deadline,
                       const std::string& path);
// A lock of LockRange goes, even if a child of ours has the descriptor as well.
void UnlockRange(int fd, DaxRange range);
absl::Status HoldRange(int fd, DaxRange range, const std::string& path);
// The parts of `range` that other descriptions have, rising, apart from each other.
absl::StatusOr<std::vector<DaxRange>> RangesHeld(int fd, DaxRange range, const std::string& path);

}  // namespace moult::host

#endif  // MOULT_HOST_POOL_DAX_LOCKS_H_
