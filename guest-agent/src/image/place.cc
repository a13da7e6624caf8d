// SPDX-License-Identifier: Apache-2.0
#include "image/place.h"

#include <string>

#include <unistd.h>

#include "absl/strings/strip.h"
#include "image/clock.h"
#include "proc/read.h"
#include "proc/stat.h"

namespace moult::engine {
namespace {

// By one that has ended, and that its parent has not waited for.
absl::Status PidTakenByZombie(pid_t pid, pid_t parent) {
  auto comm = proc::ReadFile(absl::StrCat("/proc/", parent, "/comm"));
  const std::string who = comm.ok() ? absl::StrCat(" (", absl::StripSuffix(*comm, "\n"), ")") : "";
  return absl::FailedPreconditionError(absl::StrCat("pid ", pid, " is still that of a process that has ended and that its parent, process ", parent, who,
                                                    ", has not waited for; let the parent wait (or end it), or use --sandbox"));
}

}  // namespace

absl::Status PidTaken(pid_t pid) {
  auto text = proc::ReadFile(absl::StrCat("/proc/", pid, "/stat"));
  const auto stat = text.ok() ? proc::ParseStat(*text) : text.status();
  if (stat.ok() && stat->state == 'Z') return PidTakenByZombie(pid, stat->ppid);
  if (absl::IsNotFound(stat.status())) {
    return absl::FailedPreconditionError(absl::StrCat("pid ", pid, " is still the number of a process group or session that other processes belong to; end those, or use --sandbox"));
  }
  auto comm = proc::ReadFile(absl::StrCat("/proc/", pid, "/comm"));
  const std::string who = comm.ok() ? absl::StrCat(" (", absl::StripSuffix(*comm, "\n"), ")") : "";
  return absl::FailedPreconditionError(absl::StrCat("pid ", pid, " is taken by another process or thread", who, "; use --sandbox, or end that process"));
}

absl::Status CheckPlaceHere(const image::ProcessImageT& image) {
  if (image.sandboxed) {
    return absl::FailedPreconditionError("the process was captured in a sandbox (pid, mount, ipc or time namespace of its own); use --sandbox");
  }
  if (image.monotonic_ns > NowNs(CLOCK_MONOTONIC) || image.boottime_ns > NowNs(CLOCK_BOOTTIME)) {
    return absl::FailedPreconditionError("its monotonic clock would go back (captured on a machine that was up longer); use --sandbox");
  }
  for (const auto& thread : image.processes.front()->threads) {
    if (access(absl::StrCat("/proc/", thread->tid).c_str(), F_OK) == 0) return PidTaken(thread->tid);
  }
  return absl::OkStatus();
}

}  // namespace moult::engine
