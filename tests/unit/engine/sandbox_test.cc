// SPDX-License-Identifier: Apache-2.0
#include "image/sandbox.h"

#include <sched.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <utility>

#include <gtest/gtest.h>

#include "image/clock.h"

namespace moult::engine {
namespace {

constexpr int64_t kSecond = 1'000'000'000;

// In a process that enters it: 0, or 1 + which of `clocks` has not come to its value.
int Behind(const Sandbox& sandbox, const std::pair<clockid_t, int64_t> (&clocks)[3]) {
  const pid_t child = fork();
  if (child == 0) {
    if (setns(sandbox.handles().time_namespace, CLONE_NEWTIME) < 0) _exit(100);
    for (int i = 0; i < 3; ++i) {
      if (NowNs(clocks[i].first) < clocks[i].second) _exit(1 + i);
    }
    _exit(0);
  }
  int status = -1;
  if (child < 0 || waitpid(child, &status, 0) != child || !WIFEXITED(status)) return -1;
  return WEXITSTATUS(status);
}

// How far the coarse clock is behind changes from moment to moment.
TEST(Sandbox, LetsNoClockGoBack) {
  for (int i = 0; i < 20; ++i) {
    const int64_t monotonic = NowNs(CLOCK_MONOTONIC) - 5 * kSecond, boottime = NowNs(CLOCK_BOOTTIME) + 7 * kSecond;
    const auto sandbox = Sandbox::Create(monotonic, boottime);
    ASSERT_TRUE(sandbox.ok()) << sandbox.status();
    ASSERT_EQ(Behind(**sandbox, {{CLOCK_MONOTONIC, monotonic}, {CLOCK_BOOTTIME, boottime}, {CLOCK_MONOTONIC_COARSE, monotonic}}), 0);
  }
}

}  // namespace
}  // namespace moult::engine
