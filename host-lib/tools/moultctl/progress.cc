// SPDX-License-Identifier: Apache-2.0
#include "progress.h"

#include <unistd.h>

#include <cstdio>

#include "output.h"

namespace moult::ctl {

using std::chrono::steady_clock;

Progress::Progress(std::string what)
    : what_(std::move(what)), terminal_(isatty(STDERR_FILENO) == 1), start_(steady_clock::now()) {}

void Progress::Tick() {
  const auto elapsed = std::chrono::duration_cast<std::chrono::milliseconds>(steady_clock::now() - start_);
  if (!terminal_ || elapsed < std::chrono::seconds(1)) return;
  std::fprintf(stderr, "\r\033[K%s: %.1f s", what_.c_str(), static_cast<double>(elapsed.count()) / 1000);
  shown_ = true;
}

void Progress::Tick(uint64_t done, uint64_t total) {
  const auto elapsed = std::chrono::duration_cast<std::chrono::milliseconds>(steady_clock::now() - start_);
  if (!terminal_ || elapsed < std::chrono::seconds(1) || total == 0) return;
  const double percent = 100 * static_cast<double>(done) / static_cast<double>(total);
  std::fprintf(stderr, "\r\033[K%s: %.0f %% of %s", what_.c_str(), percent, Bytes(total).c_str());
  shown_ = true;
}

void Progress::Becomes(std::string what) {
  what_ = std::move(what);
  Tick();
}

void Progress::Wipe() {
  if (shown_) std::fputs("\r\033[K", stderr);
  shown_ = false;
}

}  // namespace moult::ctl
