// SPDX-License-Identifier: Apache-2.0
#ifndef MOULT_TOOLS_MOULTCTL_PROCESS_H_
#define MOULT_TOOLS_MOULTCTL_PROCESS_H_

#include <sys/types.h>

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "moult/base/unique_fd.h"
#include "progress.h"

namespace moult::ctl {

// A child that ends with us, or with this object.
class Child {
 public:
  // `log`: where its output goes; empty: it has ours. `env`: NAME=value, added to ours.
  static absl::StatusOr<Child> Start(const std::vector<std::string>& argv,
                                     const std::vector<std::string>& env, const std::string& log);
  Child(Child&& other) noexcept : pid_(std::exchange(other.pid_, -1)), pidfd_(std::move(other.pidfd_)) {}
  Child& operator=(Child&&) = delete;
  ~Child();

  pid_t pid() const { return pid_; }
  int pidfd() const { return pidfd_.get(); }  // readable once it has ended
  bool ended() const;
  void Terminate() const;

 private:
  Child(pid_t pid, UniqueFd pidfd) : pid_(pid), pidfd_(std::move(pidfd)) {}
  pid_t pid_;
  UniqueFd pidfd_;
};

// Runs a program to its end; its standard output without the last newline. Its errors go to our stderr. Shows
// `progress`, when it is given, meanwhile.
absl::StatusOr<std::string> Capture(const std::vector<std::string>& argv, Progress* progress = nullptr);

}  // namespace moult::ctl

#endif  // MOULT_TOOLS_MOULTCTL_PROCESS_H_
