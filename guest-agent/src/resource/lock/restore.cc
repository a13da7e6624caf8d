// SPDX-License-Identifier: Apache-2.0
#include "resource/lock/restore.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/syscall.h>

namespace moult::engine {
namespace {

using ptrace::Arg;

struct flock RangeOf(const image::FileLockT& lock) {
  struct flock range {};
  range.l_type = lock.write ? F_WRLCK : F_RDLCK;
  range.l_whence = SEEK_SET;
  range.l_start = static_cast<off_t>(lock.start);
  range.l_len = static_cast<off_t>(lock.length);
  return range;
}

absl::Status Take(int fd, const image::FileLockT& lock) {
  if (lock.kind == image::LockKind::Flock) {
    return flock(fd, (lock.write ? LOCK_EX : LOCK_SH) | LOCK_NB) < 0 ? ErrnoStatus("flock") : absl::OkStatus();
  }
  struct flock range = RangeOf(lock);
  return fcntl(fd, F_OFD_SETLK, &range) < 0 ? ErrnoStatus("fcntl lock") : absl::OkStatus();
}

}  // namespace

void PlanPosixLocks(const image::ProcessImageT& image, ptrace::ProgramBuilder& program) {
  for (const auto& fd : image.processes.front()->fds) {
    for (const auto& lock : image.open_files[fd->open_file]->locks) {
      if (lock->kind != image::LockKind::Posix) continue;
      program.Call(absl::StrCat("fd ", fd->number, ": lock bytes ", lock->start, "+", lock->length,
                                " again (EAGAIN: another process holds them by now; end it, or wait for it)"),
                   SYS_fcntl, {fd->number, F_SETLK, Arg::Data(program.AddObject(RangeOf(*lock)))});
    }
  }
}

absl::Status RestoreLocks(RestoreContext& context, uint32_t index) {
  for (const auto& lock : context.open_file(index).locks) {
    if (lock->kind == image::LockKind::Posix) continue;
    const absl::Status status = Take(context.open_files[index].get(), *lock);
    if (absl::IsUnavailable(status) || absl::IsPermissionDenied(status)) {
      return absl::FailedPreconditionError(absl::StrCat("its lock of bytes ", lock->start, "+", lock->length,
                                                        " is held by another process; end that process, or wait for it"));
    }
    MOULT_RETURN_IF_ERROR(status);
  }
  return absl::OkStatus();
}

}  // namespace moult::engine
