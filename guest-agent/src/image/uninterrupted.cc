// SPDX-License-Identifier: Apache-2.0
#include "image/uninterrupted.h"

#include <sched.h>
#include <sys/wait.h>

#include <cerrno>
#include <cstddef>
#include <vector>

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
  std::vector<std::byte> stack(kStackSize);
  // No exit signal: it is waited for here. A clone is traced only if its tracer asked for that.
  const int helper =
      clone(RunSteps, stack.data() + stack.size(), CLONE_VM | CLONE_VFORK | CLONE_FILES | CLONE_FS, &work);
  if (helper < 0) return ErrnoStatus("start a helper process");
  while (waitpid(helper, nullptr, __WALL) < 0 && errno == EINTR) {
  }
  return work.status;
}

}  // namespace moult::engine
