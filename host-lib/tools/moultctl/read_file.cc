// SPDX-License-Identifier: Apache-2.0
#include "read_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <array>
#include <cerrno>

#include "absl/strings/str_cat.h"
#include "moult/base/status.h"
#include "moult/base/unique_fd.h"

namespace moult::ctl {

absl::StatusOr<std::string> ReadFile(const std::string& path, const std::string& what) {
  UniqueFd file;
  if (path != "-") {
    file = UniqueFd(open(path.c_str(), O_RDONLY | O_CLOEXEC));
    if (!file.valid()) return ErrnoStatus(absl::StrCat(what, ": open"));
  }
  std::string text;
  std::array<char, 65536> chunk;
  for (ssize_t got = -1; got != 0;) {
    got = read(file.valid() ? file.get() : STDIN_FILENO, chunk.data(), chunk.size());
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return ErrnoStatus(absl::StrCat(what, ": read"));
    text.append(chunk.data(), static_cast<size_t>(got));
  }
  return text;
}

}  // namespace moult::ctl
