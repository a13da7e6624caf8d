// SPDX-License-Identifier: Apache-2.0
#ifndef MOULT_TESTS_UNIT_FEW_FILES_H_
#define MOULT_TESTS_UNIT_FEW_FILES_H_

#include <fcntl.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>

namespace moult::testing {

// While it lives, this process gets no descriptor that it has not got.
class NoMoreFiles {
 public:
  NoMoreFiles() {
    getrlimit(RLIMIT_NOFILE, &before_);
    // The kernel gives the lowest that is free: none below this one is.
    const int lowest = fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, 0);
    close(lowest);
    const rlimit none = {static_cast<rlim_t>(std::max(lowest, 0)), before_.rlim_max};
    setrlimit(RLIMIT_NOFILE, &none);
  }
  ~NoMoreFiles() { setrlimit(RLIMIT_NOFILE, &before_); }
  NoMoreFiles(const NoMoreFiles&) = delete;
  NoMoreFiles& operator=(const NoMoreFiles&) = delete;

 private:
  rlimit before_{};
};

}  // namespace moult::testing

#endif  // MOULT_TESTS_UNIT_FEW_FILES_H_
