// SPDX-License-Identifier: Apache-2.0
#include "resource/thread/scheduling.h"

#include <sched.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace moult::engine {
namespace {

constexpr int kIoprioWhoProcess = 1;
constexpr size_t kMaxCpuBytes = 1024;  // 8192 CPUs, the most an x86 kernel is built for
constexpr uint32_t kWholeCpu = 1024;  // SCHED_CAPACITY_SCALE: no clamp from above
constexpr uint64_t kUtilClampFlags = 0x60;  // SCHED_FLAG_UTIL_CLAMP_MIN | _MAX

bool CoversAllCpus(const std::vector<uint8_t>& mask) {
  const long cpus = sysconf(_SC_NPROCESSORS_ONLN);
  long allowed = 0;
  for (const uint8_t byte : mask) allowed += __builtin_popcount(byte);
  return allowed >= cpus;
}

// A kernel without utilisation clamps tells 0 for both.
bool HasOtherClamps(const image::SchedulingT& wanted, const image::SchedulingT& current) {
  const bool here = current.util_max != 0;
  const bool asked = wanted.util_min != 0 || (wanted.util_max != 0 && wanted.util_max != kWholeCpu);
  return here ? wanted.util_max != 0 && (wanted.util_min != current.util_min || wanted.util_max != current.util_max) : asked;
}

}  // namespace

absl::StatusOr<std::unique_ptr<image::SchedulingT>> CaptureScheduling(pid_t tid) {
  auto scheduling = std::make_unique<image::SchedulingT>();
  SchedAttr attr{};
  if (syscall(SYS_sched_getattr, tid, &attr, sizeof(attr), 0) < 0) return ErrnoStatus(absl::StrCat("thread ", tid, ": sched_getattr"));
  scheduling->policy = attr.policy;
  scheduling->flags = attr.flags & ~kUtilClampFlags;
  scheduling->nice = attr.nice;
  scheduling->priority = attr.priority;
  scheduling->runtime_ns = attr.runtime;
  scheduling->deadline_ns = attr.deadline;
  scheduling->period_ns = attr.period;
  scheduling->util_min = attr.util_min;
  scheduling->util_max = attr.util_max;
  scheduling->affinity.resize(kMaxCpuBytes);
  const long n = syscall(SYS_sched_getaffinity, tid, scheduling->affinity.size(), scheduling->affinity.data());
  if (n < 0) return ErrnoStatus(absl::StrCat("thread ", tid, ": sched_getaffinity"));
  scheduling->affinity.resize(static_cast<size_t>(n));
  scheduling->affinity_is_default = CoversAllCpus(scheduling->affinity);
  const long priority = syscall(SYS_ioprio_get, kIoprioWhoProcess, tid);
  if (priority < 0) return ErrnoStatus(absl::StrCat("thread ", tid, ": ioprio_get"));
  scheduling->io_priority = static_cast<int32_t>(priority);
  return scheduling;
}

void RestoreScheduling(const image::SchedulingT& wanted, const image::SchedulingT& current, ptrace::ProgramBuilder& program) {
  using ptrace::Arg;
  if (!wanted.affinity_is_default || !current.affinity_is_default) {
    const size_t mask = program.AddVector(wanted.affinity);
    program.Call("sched_setaffinity", SYS_sched_setaffinity, {0, wanted.affinity.size(), Arg::Data(mask)});
  }
  if (wanted.io_priority != current.io_priority) {
    program.Call("ioprio_set", SYS_ioprio_set, {kIoprioWhoProcess, 0, wanted.io_priority});
  }
  if (wanted.timer_slack_ns != current.timer_slack_ns && wanted.timer_slack_ns != 0) {
    program.Call("prctl(PR_SET_TIMERSLACK)", SYS_prctl, {PR_SET_TIMERSLACK, wanted.timer_slack_ns, 0, 0, 0});
  }
  const bool clamped = HasOtherClamps(wanted, current);
  if (wanted.policy != current.policy || wanted.nice != current.nice || wanted.priority != current.priority ||
      wanted.flags != current.flags || wanted.policy == SCHED_DEADLINE || clamped) {
    const SchedAttr attr{sizeof(SchedAttr), wanted.policy,      wanted.flags | (clamped ? kUtilClampFlags : 0), wanted.nice, wanted.priority,
                         wanted.runtime_ns, wanted.deadline_ns, wanted.period_ns, clamped ? wanted.util_min : 0, clamped ? wanted.util_max : 0};
    const size_t data = program.AddObject(attr);
    program.Call("sched_setattr", SYS_sched_setattr, {0, Arg::Data(data), 0});
  }
}

bool StartsAlike(const image::SchedulingT& a, const image::SchedulingT& b) {
  return a.affinity_is_default == b.affinity_is_default && a.io_priority == b.io_priority && a.timer_slack_ns == b.timer_slack_ns &&
         a.policy == b.policy && a.nice == b.nice && a.priority == b.priority && a.flags == b.flags && a.util_min == b.util_min &&
         a.util_max == b.util_max;
}

}  // namespace moult::engine
