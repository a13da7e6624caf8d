// SPDX-License-Identifier: Apache-2.0
#include "image/restore_context.h"

#include "image/files.h"
#include "image/window.h"

#include <algorithm>

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

namespace moult::engine {

std::string RestoreContext::FdName(uint32_t open_file_index) const {
  const int number = first_numbers[open_file_index];
  std::string name = number < 0 ? "descriptor in flight" : absl::StrCat("fd ", number);
  const image::OpenFileT& open_file = *image.open_files[open_file_index];
  uint32_t file_index = 0xffffffffu;
  if (const auto* regular = open_file.resource.AsRegularFile()) file_index = regular->file;
  if (const auto* directory = open_file.resource.AsDirectory()) file_index = directory->file;
  if (const auto* device = open_file.resource.AsDevice()) file_index = device->file;
  if (const auto* path = open_file.resource.AsPathOnly()) file_index = path->file;
  if (file_index != 0xffffffffu) {
    absl::StrAppend(&name, " (", file(file_index).path, ")");
  } else {
    absl::StrAppend(&name, " (", image::EnumNameResource(open_file.resource.type), ")");
  }
  return name;
}

absl::StatusOr<UniqueFd> RestoreContext::MoveUp(UniqueFd fd) const {
  if (fd.get() >= first_free_fd) return fd;
  UniqueFd moved(fcntl(fd.get(), F_DUPFD_CLOEXEC, first_free_fd));
  if (!moved.valid()) {
    return absl::ResourceExhaustedError(absl::StrCat("no descriptor number from ", first_free_fd, " on is free; raise this tool's limit of open files (ulimit -n)"));
  }
  return moved;
}

absl::StatusOr<UniqueFd> OpenFileRef(const image::FileRefT& file, int flags) {
  // O_NONBLOCK so that a FIFO put in the file's place cannot hang us; the caller sets the wanted flags.
  UniqueFd fd(open(file.path.c_str(), flags | O_CLOEXEC | ((flags & O_PATH) != 0 ? 0 : O_NONBLOCK)));
  if (!fd.valid()) return ErrnoStatus(absl::StrCat("open ", file.path));
  struct stat st {};
  if (fstat(fd.get(), &st) < 0) return ErrnoStatus(absl::StrCat("stat ", file.path));
  if ((st.st_mode & S_IFMT) != (file.mode & S_IFMT) || st.st_rdev != file.rdev ||
      (file.content == image::FileContent::Exact && S_ISREG(st.st_mode) && static_cast<uint64_t>(st.st_size) != file.size)) {
    return absl::FailedPreconditionError(absl::StrCat("file ", file.path, " was replaced during the restore; try again"));
  }
  // What CheckFiles saw may have been replaced since: the very file that is used must match.
  if (file.content == image::FileContent::Exact && S_ISREG(st.st_mode) && !SameIdentity(file, st)) {
    MOULT_RETURN_IF_ERROR(CheckContent(file, fd.get(), st));
  }
  return fd;
}

namespace {

absl::Status WriteContent(int fd, uint64_t at, const std::byte* data, uint64_t size) {
  for (uint64_t done = 0; done < size;) {
    const ssize_t put = pwrite(fd, data + done, size - done, static_cast<off_t>(at + done));
    if (put <= 0) {
      const int error = put < 0 ? errno : ENOSPC;
      const absl::Status status = ErrnoStatus(error, "write its content");
      // Of a file in memory and of one on a disk.
      return error == ENOSPC ? WithRemedy(status, "free memory or disk space") : status;
    }
    done += static_cast<uint64_t>(put);
  }
  return absl::OkStatus();
}

absl::Status CopyContent(const PageSource& pages, uint64_t offset, int fd, uint64_t at, uint64_t size) {
  if (pages.attach) {
    constexpr uint64_t kPageMask = 4095;
    MOULT_ASSIGN_OR_RETURN(const WindowView view, WindowView::Map(pages, offset, (size + kPageMask) & ~kPageMask));
    return WriteContent(fd, at, view.data(), size);
  }
  std::vector<std::byte> buffer(std::min<uint64_t>(size, 1u << 20));
  for (uint64_t done = 0; done < size;) {
    const size_t want = std::min<uint64_t>(buffer.size(), size - done);
    const ssize_t got = pread(pages.fd, buffer.data(), want, static_cast<off_t>(pages.offset + offset + done));
    if (got <= 0) return ErrnoStatus(got < 0 ? errno : EIO, "read the template's pages");
    MOULT_RETURN_IF_ERROR(WriteContent(fd, at + done, buffer.data(), static_cast<uint64_t>(got)));
    done += static_cast<uint64_t>(got);
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status FillFile(uint64_t size, const std::vector<image::PageRun>& runs, const PageSource& pages, int fd) {
  if (ftruncate(fd, static_cast<off_t>(size)) < 0) return ErrnoStatus(absl::StrCat("set its size to ", size));
  for (const image::PageRun& run : runs) {
    // The last page of a file may be a part of one.
    const uint64_t end = std::min(run.start() + run.length(), size);
    if (end > run.start()) MOULT_RETURN_IF_ERROR(CopyContent(pages, run.pages_offset(), fd, run.start(), end - run.start()));
  }
  return absl::OkStatus();
}

}  // namespace moult::engine
