// SPDX-License-Identifier: Apache-2.0
#include "replace_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <memory>

#include "absl/strings/str_cat.h"
#include "moult/base/status.h"
#include "moult/base/unique_fd.h"

namespace moult::ctl {
namespace {

absl::Status WriteAll(int fd, std::string_view content) {
  while (!content.empty()) {
    const ssize_t put = write(fd, content.data(), content.size());
    if (put < 0 && errno == EINTR) continue;
    if (put < 0) return ErrnoStatus("write");
    content.remove_prefix(static_cast<size_t>(put));
  }
  return absl::OkStatus();
}

// What is to be replaced: where the links lead, if anything is there.
absl::StatusOr<std::string> Target(const std::string& path) {
  const std::unique_ptr<char, decltype(&free)> real(realpath(path.c_str(), nullptr), free);
  if (real == nullptr) return errno == ENOENT ? absl::StatusOr<std::string>(path) : ErrnoStatus("find");
  struct stat stat {};
  if (::stat(real.get(), &stat) == 0 && !S_ISREG(stat.st_mode))
    return absl::FailedPreconditionError("is no regular file; give another path");
  return std::string(real.get());
}

absl::Status Replace(const std::string& path, std::string_view content) {
  MOULT_ASSIGN_OR_RETURN(const std::string target, Target(path));
  // Beside it, since a rename cannot leave a file system.
  const std::string temporary = absl::StrCat(target, ".", getpid(), ".tmp");
  UniqueFd fd(open(temporary.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666));
  if (!fd.valid()) return ErrnoStatus("create");
  absl::Status status = WriteAll(fd.get(), content);
  // Some file systems say only now that there is no room.
  if (status.ok() && close(fd.Release()) != 0) status = ErrnoStatus("close");
  if (status.ok() && rename(temporary.c_str(), target.c_str()) != 0) status = ErrnoStatus("rename");
  if (!status.ok()) unlink(temporary.c_str());
  return status;
}

}  // namespace

absl::Status ReplaceFile(const std::string& path, std::string_view content) {
  return Annotate(Replace(path, content), absl::StrCat("write ", path));
}

}  // namespace moult::ctl
