// SPDX-License-Identifier: Apache-2.0
#include "image/uninterrupted.h"

#include <sched.h>
#include <sys/wait.h>

#include <cerrno>
#include <cstddef>
#include <memory>

namespace moult::engine {
namespace {

constexpr size_t kStackSize = 256u << 10;

struct Work {
  const std::function<absl::Status()>& steps;
  absl::Status status;
};

int RunSteps(void* argument) {
  auto* work = static_cast<Work*>(argument);
  work->status = work->steps();
  return 0;
}

}  // namespace

absl::Status Uninterrupted(const std::function<absl::Status()>& steps) {
  Work work{steps, absl::OkStatus()};
  // Not set to zero: most of it is never touched.
  const auto stack = std::make_unique_for_overwrite<std::byte[]>(kStackSize);
  // No exit signal: it is waited for here. A clone is traced only if its tracer asked for that.
  const int helper =
      clone(RunSteps, stack.get() + kStackSize, CLONE_VM | CLONE_VFORK | CLONE_FILES | CLONE_FS, &work);
  if (helper < 0) return CloneStatus(errno, "start a helper process");
  while (waitpid(helper, nullptr, __WALL) < 0 && errno == EINTR) {
  }
  return work.status;
}

}  // namespace moult::engine
