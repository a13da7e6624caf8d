// SPDX-License-Identifier: Apache-2.0
#ifndef MOULT_RESOURCE_THREAD_SCHEDULING_H_
#define MOULT_RESOURCE_THREAD_SCHEDULING_H_

#include <sys/types.h>

#include <memory>

#include "moult/base/status.h"
#include "moult/protocol/schema.h"
#include "ptrace/program_builder.h"

namespace moult::engine {

// struct sched_attr of linux/sched/types.h, which clashes with glibc's sched.h.
struct SchedAttr {
  uint32_t size;
  uint32_t policy;
  uint64_t flags;
  int32_t nice;
  uint32_t priority;
  uint64_t runtime;
  uint64_t deadline;
  uint64_t period;
  uint32_t util_min;
  uint32_t util_max;
};

// All but the timer slack, which the thread itself is asked for.
absl::StatusOr<std::unique_ptr<image::SchedulingT>> CaptureScheduling(pid_t tid);

// Adds the calls that bring the thread that runs the program to `wanted`; `current` is what a fresh thread
// has, so that an ordinary one needs no call.
void RestoreScheduling(const image::SchedulingT& wanted, const image::SchedulingT& current, ptrace::ProgramBuilder& program);

// Whether RestoreScheduling makes the same of both, as `current`.
bool StartsAlike(const image::SchedulingT& a, const image::SchedulingT& b);

}  // namespace moult::engine

#endif  // MOULT_RESOURCE_THREAD_SCHEDULING_H_
