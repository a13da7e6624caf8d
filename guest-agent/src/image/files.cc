// SPDX-License-Identifier: Apache-2.0
#include "image/files.h"

#include <algorithm>

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "image/capture_context.h"
#include "moult/base/unique_fd.h"
#include "moult/protocol/digest.h"

namespace moult::engine {
namespace {

absl::Status Changed(const image::FileRefT& file, absl::string_view how) {
  return absl::FailedPreconditionError(absl::StrCat("file ", file.path, " ", how, " since the capture; put the old file back, or capture the function again"));
}

absl::Status CheckFile(const image::FileRefT& file) {
  struct stat st {};
  const int failed = S_ISLNK(file.mode) ? lstat(file.path.c_str(), &st) : stat(file.path.c_str(), &st);
  if (failed < 0) {
    if (errno == ENOENT || errno == ENOTDIR) return Changed(file, "has vanished");
    return ErrnoStatus(absl::StrCat("stat ", file.path));
  }
  if ((st.st_mode & S_IFMT) != (file.mode & S_IFMT) || st.st_rdev != file.rdev) return Changed(file, "is of another type");
  switch (file.content) {
    case image::FileContent::Any:
      return absl::OkStatus();
    case image::FileContent::AtLeast:
      if (static_cast<uint64_t>(st.st_size) < file.size) return Changed(file, "has shrunk");
      return absl::OkStatus();
    case image::FileContent::Exact:
      break;
  }
  if (!S_ISREG(st.st_mode) || SameIdentity(file, st)) return absl::OkStatus();
  const UniqueFd fd(open(file.path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (!fd.valid()) return ErrnoStatus(absl::StrCat("open ", file.path));
  return CheckContent(file, fd.get(), st);
}

// False when it is not what it was when the process was stopped.
absl::StatusOr<bool> DigestFile(const std::string& path, image::FileRefT& file) {
  const UniqueFd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  // Without a digest the very same file must be there at restore.
  if (!fd.valid()) return errno != ENOENT && errno != ENOTDIR;
  struct stat st {};
  if (fstat(fd.get(), &st) < 0 || !SameIdentity(file, st)) return false;
  MOULT_ASSIGN_OR_RETURN(const image::Sha256Digest digest, image::Sha256OfFile(fd.get(), file.path));
  if (fstat(fd.get(), &st) < 0 || !SameIdentity(file, st)) return false;
  file.digest.assign(digest.begin(), digest.end());
  return true;
}

}  // namespace

bool SameIdentity(const image::FileRefT& file, const struct stat& st) { return VersionOf(file) == VersionOf(st); }

absl::Status CheckContent(const image::FileRefT& file, int fd, const struct stat& st) {
  if (static_cast<uint64_t>(st.st_size) != file.size) {
    return Changed(file, absl::StrCat("has another size (", st.st_size, " bytes, was ", file.size, ")"));
  }
  if (file.digest.empty()) return Changed(file, "was written to");
  MOULT_ASSIGN_OR_RETURN(const image::Sha256Digest digest, image::Sha256OfFile(fd, file.path));
  if (!std::equal(digest.begin(), digest.end(), file.digest.begin(), file.digest.end())) return Changed(file, "has other content");
  return absl::OkStatus();
}

absl::StatusOr<std::vector<std::string>> DigestFiles(const std::string& root, const KnownDigests& known,
                                                    image::ProcessImageT& image) {
  std::vector<std::string> changed;
  for (auto& file : image.files) {
    if (file->content != image::FileContent::Exact || !S_ISREG(file->mode)) continue;
    if (const image::Sha256Digest* digest = known.Find(VersionOf(*file)); digest != nullptr) {
      file->digest.assign(digest->begin(), digest->end());
      continue;
    }
    MOULT_ASSIGN_OR_RETURN(const bool unchanged, DigestFile(absl::StrCat(root, file->path), *file));
    if (!unchanged) changed.push_back(file->path);
  }
  return changed;
}

absl::Status CheckFiles(const image::ProcessImageT& image) {
  for (size_t i = 0; i < image.files.size(); ++i) {
    // A removed working directory is not there, and need not be.
    const bool removed = std::any_of(image.processes.begin(), image.processes.end(),
                                     [i](const auto& process) { return process->cwd_deleted && process->cwd == i; });
    if (!removed) MOULT_RETURN_IF_ERROR(CheckFile(*image.files[i]));
  }
  return absl::OkStatus();
}

}  // namespace moult::engine
