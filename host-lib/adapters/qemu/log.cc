// SPDX-License-Identifier: Apache-2.0
#include "log.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>

#include "moult/base/status.h"

namespace moult::qemu {

Log::Log(const std::string& path, bool debug) : debug_(debug) {
  if (path.empty()) return;
  const int fd = open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
  if (fd >= 0) {
    fd_ = fd;
  } else {
    Write(0, std::string(ErrnoStatus(absl::StrCat("open log ", path)).message()));
  }
}

void Log::Write(int level, const std::string& message) const {
  static constexpr const char* kLevels[] = {"error", "warning", "info", "debug"};
  if (level >= 3 && !debug_) return;
  std::string text = message;
  // One line each, whatever a guest's agent put into it.
  std::replace_if(
      text.begin(), text.end(), [](char c) { return static_cast<unsigned char>(c) < ' '; }, ' ');
  const std::string line = absl::StrCat("moult: ", kLevels[std::clamp(level, 0, 3)], ": ", text, "\n");
  (void)!write(fd_, line.data(), line.size());
}

}  // namespace moult::qemu
