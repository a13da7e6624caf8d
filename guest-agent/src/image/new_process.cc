// SPDX-License-Identifier: Apache-2.0
#include "image/new_process.h"

#include <cerrno>
#include <chrono>
#include <csignal>
#include <ctime>

#include <sys/wait.h>

#include "absl/strings/str_cat.h"
#include "proc/read.h"
#include "ptrace/wait.h"

namespace moult::engine {

NewProcess::~NewProcess() {
  if (pid_ <= 0) return;
  kill(pid_, SIGKILL);
  const auto deadline = ptrace::Clock::now() + std::chrono::seconds(10);
  while (!Reap() && ptrace::Clock::now() < deadline) {
    const timespec pause{0, 1'000'000};
    nanosleep(&pause, nullptr);
  }
}

bool NewProcess::Reap() const {
  bool threads = false;
  auto tids = proc::ListNumeric(absl::StrCat("/proc/", pid_, "/task"));
  if (tids.ok()) {
    for (const int tid : *tids) {
      if (tid == pid_) continue;
      threads = true;
      waitpid(tid, nullptr, __WALL | WNOHANG);
    }
  }
  if (threads) return false;
  int status = 0;
  const pid_t got = waitpid(pid_, &status, __WALL | WNOHANG);
  return (got == pid_ && ptrace::IsGone(status)) || (got < 0 && errno == ECHILD);
}

}  // namespace moult::engine
