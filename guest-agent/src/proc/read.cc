// SPDX-License-Identifier: Apache-2.0
#include "proc/read.h"

#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <unistd.h>

#include <algorithm>
#include <memory>

#include "moult/base/status.h"
#include "moult/base/unique_fd.h"
#include "proc/text.h"

namespace moult::proc {
namespace {

// Files of /proc have no size, and seq_file gives at most its own buffer for each read(2): few big reads cost
// least, and the kernel restarts its walk less often.
constexpr size_t kRead = 64 << 10;

struct CloseDir {
  void operator()(DIR* dir) const { closedir(dir); }
};

// How errors name what was read: with the directory's number when it is not the current one.
std::string Where(int dirfd, const char* name) {
  if (dirfd == AT_FDCWD || name[0] == '/') return name;
  return absl::StrCat("fd ", dirfd, "/", name);
}

absl::StatusOr<std::vector<int>> ListNumericFd(UniqueFd fd, const std::string& where) {
  std::unique_ptr<DIR, CloseDir> dir(fdopendir(fd.get()));
  if (dir == nullptr) return ErrnoStatus(absl::StrCat("list ", where));
  fd.Release();
  std::vector<int> numbers;
  for (;;) {
    errno = 0;
    const dirent* entry = readdir(dir.get());
    if (entry == nullptr) break;
    Scanner scanner(entry->d_name);
    int number;
    if (scanner.Dec(&number) && scanner.AtEnd() && number >= 0) numbers.push_back(number);
  }
  if (errno != 0) return ErrnoStatus(absl::StrCat("list ", where));
  std::sort(numbers.begin(), numbers.end());
  return numbers;
}

enum class Extent { kBeginning, kRecord, kAll };

absl::StatusOr<std::string> Read(int dirfd, const char* name, Extent extent) {
  UniqueFd fd(openat(dirfd, name, O_RDONLY | O_CLOEXEC | O_NOCTTY));
  if (!fd.valid()) return ErrnoStatus(absl::StrCat("open ", Where(dirfd, name)));
  // Most files are small, and a string that grows is filled with zeros first, which costs more than the read.
  static thread_local const std::unique_ptr<char[]> buffer(new char[kRead]);
  std::string content;
  for (;;) {
    const ssize_t count = read(fd.get(), buffer.get(), kRead);
    if (count < 0) {
      if (errno == EINTR) continue;
      return ErrnoStatus(absl::StrCat("read ", Where(dirfd, name)));
    }
    content.append(buffer.get(), static_cast<size_t>(count));
    if (count == 0 || extent == Extent::kBeginning) return content;
    if (extent == Extent::kRecord && static_cast<size_t>(count) < kRead) return content;
  }
}

}  // namespace

absl::StatusOr<std::string> ReadFileAt(int dirfd, const char* name) { return Read(dirfd, name, Extent::kAll); }

absl::StatusOr<std::string> ReadRecordAt(int dirfd, const char* name) { return Read(dirfd, name, Extent::kRecord); }

absl::StatusOr<std::string> ReadBeginning(const std::string& path) { return Read(AT_FDCWD, path.c_str(), Extent::kBeginning); }

absl::StatusOr<std::string> ReadFile(const std::string& path) { return ReadFileAt(AT_FDCWD, path.c_str()); }

absl::StatusOr<std::string> ReadLinkAt(int dirfd, const char* name) {
  // Links of /proc give at most a page, and ENAMETOOLONG beyond; no size is known before.
  char target[PATH_MAX + 1];
  const ssize_t size = readlinkat(dirfd, name, target, sizeof(target));
  if (size < 0) return ErrnoStatus(absl::StrCat("readlink ", Where(dirfd, name)));
  if (static_cast<size_t>(size) == sizeof(target)) {
    return ErrnoStatus(ENAMETOOLONG, absl::StrCat("readlink ", Where(dirfd, name)));
  }
  return std::string(target, static_cast<size_t>(size));
}

absl::StatusOr<std::string> ReadLink(const std::string& path) { return ReadLinkAt(AT_FDCWD, path.c_str()); }

absl::StatusOr<std::vector<int>> ListNumeric(const std::string& path) {
  UniqueFd fd(open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!fd.valid()) return ErrnoStatus(absl::StrCat("open ", path));
  return ListNumericFd(std::move(fd), path);
}

absl::StatusOr<std::vector<int>> ListNumeric(int dirfd) {
  // A new description, as one that shares the position would begin where the last reader ended.
  UniqueFd fd(openat(dirfd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  const std::string where = absl::StrCat("directory fd ", dirfd);
  if (!fd.valid()) return ErrnoStatus(absl::StrCat("open ", where));
  return ListNumericFd(std::move(fd), where);
}

}  // namespace moult::proc
