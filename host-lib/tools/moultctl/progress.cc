// SPDX-License-Identifier: Apache-2.0
#include "progress.h"

#include <unistd.h>

#include <cstdio>

namespace moult::ctl {

Progress::Progress(std::string what) : what_(std::move(what)), terminal_(isatty(STDERR_FILENO) == 1) {}

Progress::~Progress() {
  if (shown_) std::fputs("\r\033[K", stderr);
}

void Progress::Show(int64_t elapsed_ms) {
  if (!terminal_ || elapsed_ms < 1000) return;
  std::fprintf(stderr, "\r\033[K%s: %lld.%lld s", what_.c_str(), static_cast<long long>(elapsed_ms / 1000),
               static_cast<long long>(elapsed_ms % 1000 / 100));
  shown_ = true;
}

}  // namespace moult::ctl
