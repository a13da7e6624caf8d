// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cstring>

#include "absl/types/span.h"
#include "validate_internal.h"

namespace moult::image::validate {
namespace {

constexpr int kSigEvSignal = 0;
constexpr int kSigEvNone = 1;
constexpr int kSigEvThread = 2;
constexpr int kSigEvThreadId = 4;

absl::Status CheckTimers(const Path& at, const ProcessT& process, absl::Span<const int32_t> tids) {
  if (!process.interval_timers.empty() && process.interval_timers.size() != 3) {
    return at.BadField("interval_timers", process.interval_timers.size(), " elements, not 3");
  }
  for (size_t i = 0; i < process.interval_timers.size(); ++i) {
    const IntervalTimer& timer = process.interval_timers[i];
    if (timer.interval_ns() > INT64_MAX || timer.remaining_ns() > INT64_MAX) {
      return Path(at, "interval_timers", i).Bad("is over the limit of time");
    }
  }
  MOULT_RETURN_IF_ERROR(CheckCount(at, "posix_timers", process.posix_timers, kMaxTimers));
  std::vector<int32_t> ids;
  for (size_t i = 0; i < process.posix_timers.size(); ++i) {
    const PosixTimerT& timer = *process.posix_timers[i];
    const Path here(at, "posix_timers", i);
    if (timer.id < 0) return here.BadField("id", timer.id, " is negative");
    ids.push_back(timer.id);
    const bool to_thread = timer.notify == kSigEvThreadId;
    if (timer.notify != kSigEvSignal && timer.notify != kSigEvNone && timer.notify != kSigEvThread &&
        !to_thread) {
      return here.BadField("notify", timer.notify, " is unknown");
    }
    const bool signals = timer.notify != kSigEvNone;
    if (signals && (timer.signo < 1 || timer.signo > static_cast<int>(kSignals))) {
      return here.BadField("signo", timer.signo, " is no signal");
    }
    if (to_thread && !std::binary_search(tids.begin(), tids.end(), timer.tid)) {
      return here.BadField("tid", timer.tid, " is no thread of the process");
    }
    if (timer.interval_ns > INT64_MAX || timer.remaining_ns > INT64_MAX) {
      return here.Bad("is over the limit of time");
    }
    if (timer.overrun < 0) return here.BadField("overrun", timer.overrun, " is negative");
  }
  std::sort(ids.begin(), ids.end());
  const auto twice = std::adjacent_find(ids.begin(), ids.end());
  if (twice != ids.end()) return at.BadField("posix_timers", "id ", *twice, " is there twice");
  return absl::OkStatus();
}

absl::Status CheckFds(const Path& at, const ProcessImageT& image, const ProcessT& process) {
  MOULT_RETURN_IF_ERROR(CheckCount(at, "fds", process.fds, static_cast<size_t>(kMaxFd)));
  int32_t previous = -1;
  for (size_t i = 0; i < process.fds.size(); ++i) {
    const FdT& fd = *process.fds[i];
    const Path here(at, "fds", i);
    if (fd.number < 0 || fd.number >= kMaxFd) return here.BadField("number", fd.number, " is out of range");
    if (fd.number <= previous) return here.BadField("number", fd.number, " is not above the one before");
    previous = fd.number;
    MOULT_RETURN_IF_ERROR(CheckIndex(here, "open_file", fd.open_file, image.open_files, "open_files"));
  }
  return absl::OkStatus();
}

absl::Status CheckSignalsAndLimits(const Path& at, const ProcessT& process) {
  if (process.signal_actions.size() != kSignals) {
    return at.BadField("signal_actions", process.signal_actions.size(), " elements, not 64");
  }
  for (const size_t signal : {9u, 19u}) {  // SIGKILL and SIGSTOP: sigaction(2) would refuse them
    if (process.signal_actions[signal - 1].handler() != 0) {
      return Path(at, "signal_actions", signal - 1)
          .BadField("handler", "signal ", signal, " cannot have one");
    }
  }
  MOULT_RETURN_IF_ERROR(CheckPending(at, process.pending));
  if (process.limits.size() != 16) return at.BadField("limits", process.limits.size(), " elements, not 16");
  for (size_t i = 0; i < process.limits.size(); ++i) {
    if (process.limits[i].soft() > process.limits[i].hard()) {
      return Path(at, "limits", i).Bad("soft is over hard");
    }
  }
  MOULT_RETURN_IF_ERROR(CheckCount(at, "seccomp_filters", process.seccomp_filters, kMaxFilters));
  for (size_t i = 0; i < process.seccomp_filters.size(); ++i) {
    const size_t size = process.seccomp_filters[i]->program.size();
    if (size == 0 || size % 8 != 0 || size > kMaxFilterBytes) {
      return Path(at, "seccomp_filters", i).BadField("program", size, " bytes are not a BPF program");
    }
  }
  return absl::OkStatus();
}

absl::Status CheckScalars(const Path& at, const ProcessT& process) {
  if (process.pid < 1 || process.pid > kMaxPid) return at.BadField("pid", process.pid, " is out of range");
  const struct {
    const char* field;
    int32_t value;
  } ids[] = {
      {"parent", process.parent}, {"process_group", process.process_group}, {"session", process.session}};
  for (const auto& id : ids) {
    if (id.value < 0 || id.value > kMaxPid) return at.BadField(id.field, id.value, " is out of range");
  }
  if (process.umask > 0777) return at.BadField("umask", process.umask, " has bits that are not permissions");
  if (process.dumpable > 2) return at.BadField("dumpable", process.dumpable, " is unknown");
  if (process.oom_score_adj < -1000 || process.oom_score_adj > 1000) {
    return at.BadField("oom_score_adj", process.oom_score_adj, " is not from -1000 to 1000");
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status CheckPending(const Path& at, const std::vector<std::unique_ptr<PendingSignalT>>& pending) {
  MOULT_RETURN_IF_ERROR(CheckCount(at, "pending", pending, kMaxPending));
  for (size_t i = 0; i < pending.size(); ++i) {
    const std::vector<uint8_t>& info = pending[i]->siginfo;
    const Path here(at, "pending", i);
    if (info.size() != 128) return here.BadField("siginfo", info.size(), " bytes, not 128");
    int32_t signo;
    std::memcpy(&signo, info.data(), sizeof(signo));
    if (signo < 1 || signo > static_cast<int32_t>(kSignals)) {
      return here.BadField("siginfo", "si_signo ", signo, " is no signal");
    }
  }
  return absl::OkStatus();
}

absl::Status CheckProcess(const Path& at, const ProcessImageT& image, const ProcessT& process,
                          uint64_t pages_size) {
  MOULT_RETURN_IF_ERROR(CheckScalars(at, process));
  MOULT_RETURN_IF_ERROR(CheckSignalsAndLimits(at, process));
  MOULT_RETURN_IF_ERROR(CheckFile(at, "cwd", process.cwd, image, S_IFDIR));
  if (process.root != kNone) MOULT_RETURN_IF_ERROR(CheckFile(at, "root", process.root, image, S_IFDIR));
  if (process.memory == nullptr) return at.BadField("memory", "missing");
  MOULT_RETURN_IF_ERROR(CheckMemory(Path(at, "memory"), image, *process.memory, pages_size));

  if (process.threads.empty()) return at.BadField("threads", "empty");
  MOULT_RETURN_IF_ERROR(CheckCount(at, "threads", process.threads, kMaxThreads));
  std::vector<int32_t> tids;
  for (size_t i = 0; i < process.threads.size(); ++i) {
    const ThreadT& thread = *process.threads[i];
    MOULT_RETURN_IF_ERROR(CheckThread(Path(at, "threads", i), process, thread));
    tids.push_back(thread.tid);
  }
  if (tids[0] != process.pid) {
    return Path(at, "threads", 0).BadField("tid", tids[0], " is not the pid, ", process.pid);
  }
  std::sort(tids.begin(), tids.end());
  const auto twice = std::adjacent_find(tids.begin(), tids.end());
  if (twice != tids.end()) return at.BadField("threads", "tid ", *twice, " is there twice");
  MOULT_RETURN_IF_ERROR(CheckTimers(at, process, tids));
  return CheckFds(at, image, process);
}

}  // namespace moult::image::validate
