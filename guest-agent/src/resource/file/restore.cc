// SPDX-License-Identifier: Apache-2.0
#include "resource/file/file.h"

#include <fcntl.h>
#include <unistd.h>

namespace moult::engine {
namespace {

// Flags that open(2) takes; the rest are status flags, which the caller sets.
constexpr uint32_t kOpenFlags =
    O_ACCMODE | O_APPEND | O_DIRECT | O_LARGEFILE | O_NOATIME | O_DSYNC | O_SYNC | O_NONBLOCK | O_NOFOLLOW | O_DIRECTORY;

absl::StatusOr<UniqueFd> Reopen(RestoreContext& context, uint32_t index, uint32_t file, uint32_t extra) {
  return OpenFileRef(context.file(file), static_cast<int>((context.open_file(index).flags & kOpenFlags) | extra));
}

absl::Status Seek(int fd, uint64_t position) {
  if (position != 0 && lseek(fd, static_cast<off_t>(position), SEEK_SET) < 0) return ErrnoStatus(absl::StrCat("seek to ", position));
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<UniqueFd> RestorePathOnly(RestoreContext& context, uint32_t index) {
  const image::FileRefT& file = context.file(context.open_file(index).resource.AsPathOnly()->file);
  // F_GETFL shows O_NOFOLLOW and O_DIRECTORY, so they are set as they were; a link itself needs the former.
  const uint32_t flags = context.open_file(index).flags & (O_NOFOLLOW | O_DIRECTORY);
  return OpenFileRef(file, static_cast<int>(O_PATH | flags | (S_ISLNK(file.mode) ? O_NOFOLLOW : 0u)));
}

absl::StatusOr<UniqueFd> RestoreRegularFile(RestoreContext& context, uint32_t index) {
  MOULT_ASSIGN_OR_RETURN(UniqueFd fd, Reopen(context, index, context.open_file(index).resource.AsRegularFile()->file, 0));
  MOULT_RETURN_IF_ERROR(Seek(fd.get(), context.open_file(index).position));
  return fd;
}

absl::StatusOr<UniqueFd> RestoreDirectory(RestoreContext& context, uint32_t index) {
  MOULT_ASSIGN_OR_RETURN(UniqueFd fd, Reopen(context, index, context.open_file(index).resource.AsDirectory()->file, O_DIRECTORY));
  MOULT_RETURN_IF_ERROR(Seek(fd.get(), context.open_file(index).position));
  return fd;
}

absl::StatusOr<UniqueFd> RestoreDevice(RestoreContext& context, uint32_t index) {
  const uint32_t file = context.open_file(index).resource.AsDevice()->file;
  // Looked at before it is opened: opening another device may be the harm.
  struct stat st {};
  if (stat(context.file(file).path.c_str(), &st) < 0) return ErrnoStatus(absl::StrCat("stat ", context.file(file).path));
  if (!S_ISCHR(st.st_mode) || !IsStatelessDevice(st.st_rdev)) {
    return absl::FailedPreconditionError(absl::StrCat(context.file(file).path, " is not null, zero, full, random or urandom; such a device is not opened for a template"));
  }
  return Reopen(context, index, file, O_NOCTTY);
}

absl::StatusOr<UniqueFd> RestoreUnlinked(RestoreContext& context, uint32_t index) {
  const image::OpenFileT& file = context.open_file(index);
  const uint32_t object = file.resource.AsUnlinkedRegular()->object;
  // Opening through /proc gives a description of its own on the same file.
  const std::string path = absl::StrCat("/proc/self/fd/", context.object_fds[object]);
  // A file made with O_TMPFILE shows that flag's O_DIRECTORY for ever.
  const uint32_t flags = file.flags & kOpenFlags & ~static_cast<uint32_t>(O_DIRECTORY | O_NOFOLLOW);
  UniqueFd fd(open(path.c_str(), static_cast<int>(flags) | O_CLOEXEC));
  if (!fd.valid()) return ErrnoStatus(absl::StrCat("open unnamed file ", context.image.objects[object]->name));
  MOULT_RETURN_IF_ERROR(Seek(fd.get(), file.position));
  return fd;
}

}  // namespace moult::engine
