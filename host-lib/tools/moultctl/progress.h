// SPDX-License-Identifier: Apache-2.0
#ifndef MOULT_TOOLS_MOULTCTL_PROGRESS_H_
#define MOULT_TOOLS_MOULTCTL_PROGRESS_H_

#include <cstdint>
#include <string>

namespace moult::ctl {

// "capture: 1.5 s" on a line of stderr that is written over and in the end wiped; only on a terminal, and
// only for what takes longer than a second.
class Progress {
 public:
  explicit Progress(std::string what);
  ~Progress();
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;
  void Show(int64_t elapsed_ms);

 private:
  const std::string what_;
  const bool terminal_;
  bool shown_ = false;
};

}  // namespace moult::ctl

#endif  // MOULT_TOOLS_MOULTCTL_PROGRESS_H_
