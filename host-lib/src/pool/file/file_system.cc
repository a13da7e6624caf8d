// SPDX-License-Identifier: Apache-2.0
#include "pool/file/file_system.h"

#include <linux/fs.h>
#include <linux/magic.h>
#include <sys/ioctl.h>
#include <sys/vfs.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <fstream>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"
#include "moult/base/status.h"

namespace moult::host {

absl::Status CheckWritableFiles(const std::string& folder, const std::string& what) {
  struct statfs info;
  // What cannot be asked is found out by who opens files there.
  if (statfs(folder.c_str(), &info) != 0 || info.f_type != HUGETLBFS_MAGIC) return absl::OkStatus();
  return absl::FailedPreconditionError(
      absl::StrCat(what, ": ", folder, " is on hugetlbfs, whose files cannot be written; use tmpfs, mounted with huge=within_size "
                         "for huge pages"));
}

bool IsInMemory(const std::string& folder) {
  struct statfs info;
  return statfs(folder.c_str(), &info) == 0 && (info.f_type == TMPFS_MAGIC || info.f_type == RAMFS_MAGIC);
}

bool IsMountedInMemory(const std::string& folder) {
  const std::string path = std::filesystem::path(folder).lexically_normal();
  std::ifstream mounts("/proc/self/mountinfo");
  size_t longest = 0;
  bool in_memory = false;
  // "36 35 98:0 /root /mount/point rw,noatime shared:1 - ext3 /dev/root rw". Of several at one place the last is seen. A
  // place with a blank is written with \040, and not found: then the file system is asked.
  for (std::string line; std::getline(mounts, line);) {
    const std::vector<absl::string_view> words = absl::StrSplit(line, ' ');
    const auto dash = std::find(words.begin(), words.end(), "-");
    if (words.size() < 6 || words.end() - dash < 2) continue;
    const absl::string_view at = words[4];
    const bool root = at == "/";
    const bool holds = root || path == at || (absl::StartsWith(path, at) && path[at.size()] == '/');
    if (!holds || at.size() < longest) continue;
    longest = at.size();
    in_memory = dash[1] == "tmpfs" || dash[1] == "ramfs";
  }
  // A link may lead anywhere.
  for (std::filesystem::path at = path; in_memory && at.has_relative_path(); at = at.parent_path()) {
    std::error_code ignored;
    if (std::filesystem::is_symlink(at, ignored)) in_memory = false;
  }
  return in_memory;
}

absl::Status CloneFile(int from, int to) {
  if (ioctl(to, FICLONE, from) == 0) return absl::OkStatus();
  switch (errno) {
    case EOPNOTSUPP:
    case ENOSYS:
    case ENOTTY:
    case EXDEV:
    case EINVAL:   // Among others, a file of xfs that was made without reflinks.
    case EPERM:
    case ETXTBSY:  // A swap file.
      return absl::UnimplementedError("clone: the file system cannot");
    default:
      return ErrnoStatus("clone");
  }
}

}  // namespace moult::host
