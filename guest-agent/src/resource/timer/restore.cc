// SPDX-License-Identifier: Apache-2.0
#include "resource/timer/restore.h"

#include <algorithm>
#include <csignal>
#include <cstring>

#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/time.h>

#include "absl/strings/str_cat.h"

namespace moult::engine {
namespace {

using ptrace::Arg;

// Each id below the wanted one costs two calls.
constexpr int kMostCounted = 10000;
constexpr int kTimerCreateRestoreIds = 77;  // PR_TIMER_CREATE_RESTORE_IDS, Linux 6.15

timespec Spec(uint64_t ns) { return {static_cast<time_t>(ns / 1'000'000'000), static_cast<long>(ns % 1'000'000'000)}; }
timeval Val(uint64_t ns) { return {static_cast<time_t>(ns / 1'000'000'000), static_cast<suseconds_t>(ns % 1'000'000'000 / 1000)}; }

bool KernelTakesIds() {
  static const bool takes = prctl(kTimerCreateRestoreIds, 2 /* get */, 0, 0, 0) >= 0;
  return takes;
}

size_t AddEvent(const image::PosixTimerT& timer, ptrace::ProgramBuilder& program) {
  sigevent event{};
  event.sigev_notify = timer.notify;
  event.sigev_signo = timer.signo;
  std::memcpy(&event.sigev_value, &timer.sigval, sizeof(timer.sigval));
  if ((timer.notify & SIGEV_THREAD_ID) != 0) event._sigev_un._tid = timer.tid;
  return program.AddObject(event);
}

void Create(const image::PosixTimerT& timer, size_t id, ptrace::ProgramBuilder& program) {
  program.Call(absl::StrCat("timer_create of timer ", timer.id), SYS_timer_create, {timer.clock, Arg::Data(AddEvent(timer, program)), Arg::Data(id)});
}

// Kernels that do not take an id give the next one each time, from 0 in a new process: the gaps are made and
// deleted again.
void CreateCounting(const image::ProcessT& process, ptrace::ProgramBuilder& program) {
  int next = 0;
  sigevent none{};
  none.sigev_notify = SIGEV_NONE;
  const size_t event = program.AddObject(none);
  const size_t id = program.AddObject(int{0});
  for (const auto& timer : process.posix_timers) {
    for (; next < timer->id; ++next) {
      program.Call("timer_create", SYS_timer_create, {CLOCK_MONOTONIC, Arg::Data(event), Arg::Data(id)});
      program.Call("timer_delete", SYS_timer_delete, {next});
    }
    Create(*timer, id, program);
    ++next;
  }
}

void CreateById(const image::ProcessT& process, ptrace::ProgramBuilder& program) {
  program.Call("prctl(PR_TIMER_CREATE_RESTORE_IDS)", SYS_prctl, {kTimerCreateRestoreIds, 1, 0, 0, 0});
  for (const auto& timer : process.posix_timers) Create(*timer, program.AddObject(timer->id), program);
  program.Call("prctl(PR_TIMER_CREATE_RESTORE_IDS)", SYS_prctl, {kTimerCreateRestoreIds, 0, 0, 0, 0});
}

}  // namespace

absl::Status PlanTimers(const image::ProcessT& process, ptrace::ProgramBuilder& program) {
  if (!process.posix_timers.empty()) {
    if (KernelTakesIds()) {
      CreateById(process, program);
    } else {
      if (process.posix_timers.back()->id > kMostCounted) {
        return absl::FailedPreconditionError(absl::StrCat("POSIX timer id ", process.posix_timers.back()->id, " cannot be had again on this kernel; use Linux 6.15 or newer"));
      }
      CreateCounting(process, program);
    }
  }
  for (const auto& timer : process.posix_timers) {
    if (timer->remaining_ns == 0 && timer->interval_ns == 0) continue;
    const itimerspec value{Spec(timer->interval_ns), Spec(timer->remaining_ns)};
    program.Call(absl::StrCat("timer_settime of timer ", timer->id), SYS_timer_settime, {timer->id, 0, Arg::Data(program.AddObject(value)), 0});
  }
  for (size_t which = 0; which < process.interval_timers.size(); ++which) {
    const image::IntervalTimer& timer = process.interval_timers[which];
    if (timer.remaining_ns() == 0 && timer.interval_ns() == 0) continue;
    // One that has fired and whose signal waits to be taken stands still until then: it fires once more, which
    // adds nothing to the signal that is pending, and goes on.
    const itimerval value{Val(timer.interval_ns()), Val(std::max<uint64_t>(timer.remaining_ns(), 1000))};
    program.Call("setitimer", SYS_setitimer, {which, Arg::Data(program.AddObject(value)), 0});
  }
  return absl::OkStatus();
}

}  // namespace moult::engine
