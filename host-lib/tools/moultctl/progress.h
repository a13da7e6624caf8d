// SPDX-License-Identifier: Apache-2.0
#ifndef MOULT_TOOLS_MOULTCTL_PROGRESS_H_
#define MOULT_TOOLS_MOULTCTL_PROGRESS_H_

#include <chrono>
#include <cstdint>
#include <string>

namespace moult::ctl {

// "capture: 1.5 s" on a line of stderr that is written over and in the end wiped; only on a terminal, and
// only for what takes longer than a second.
class Progress {
 public:
  // How often Tick() is worth calling.
  static constexpr int kEveryMs = 250;

  explicit Progress(std::string what);
  ~Progress() { Wipe(); }
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  // Shows how long it has taken until now.
  void Tick();
  // The same, with how much of it is done.
  void Tick(uint64_t done, uint64_t total);
  // Another step of the same work: the time goes on.
  void Becomes(std::string what);
  void Wipe();

 private:
  std::string what_;
  const bool terminal_;
  const std::chrono::steady_clock::time_point start_;
  bool shown_ = false;
};

}  // namespace moult::ctl

#endif  // MOULT_TOOLS_MOULTCTL_PROGRESS_H_
