// SPDX-License-Identifier: Apache-2.0
#include "resource/timer/capture.h"

#include <algorithm>
#include <csignal>

#include <sys/syscall.h>
#include <sys/time.h>

#include "proc/read.h"

namespace moult::engine {
namespace {

constexpr size_t kIntervalTimers = 3;

uint64_t Ns(const timeval& time) { return static_cast<uint64_t>(time.tv_sec) * 1'000'000'000 + static_cast<uint64_t>(time.tv_usec) * 1000; }
uint64_t Ns(const timespec& time) { return static_cast<uint64_t>(time.tv_sec) * 1'000'000'000 + static_cast<uint64_t>(time.tv_nsec); }

// The kernel names the target as the reader's namespace sees it; the process knows another number.
absl::StatusOr<pid_t> InnerTid(const CaptureContext& context, pid_t outer) {
  const auto& traced = context.tracee.threads();
  for (size_t i = 0; i < traced.size(); ++i) {
    if (traced[i].tid == outer) return context.process.threads[i]->tid;
  }
  return Refuse(absl::StrCat("a POSIX timer signals thread ", outer, ", which is gone"), "delete the timer");
}

}  // namespace

absl::StatusOr<TimerQuestions> AskTimers(pid_t pid, ptrace::ProgramBuilder& program) {
  using ptrace::Arg;
  TimerQuestions ask;
  MOULT_ASSIGN_OR_RETURN(const std::string text, proc::ReadFile(absl::StrCat("/proc/", pid, "/timers")));
  MOULT_ASSIGN_OR_RETURN(ask.posix, proc::ParseTimers(text));
  ask.intervals = program.AddBuffer(kIntervalTimers * sizeof(itimerval));
  for (size_t which = 0; which < kIntervalTimers; ++which) {
    program.Call("getitimer", SYS_getitimer, {which, Arg::Data(ask.intervals + which * sizeof(itimerval))});
  }
  ask.posix_values = program.AddBuffer(ask.posix.size() * sizeof(itimerspec));
  for (size_t i = 0; i < ask.posix.size(); ++i) {
    const int id = ask.posix[i].id;
    program.Call(absl::StrCat("timer_gettime of timer ", id), SYS_timer_gettime, {id, Arg::Data(ask.posix_values + i * sizeof(itimerspec))});
    ask.overrun_ops.push_back(program.Call(absl::StrCat("timer_getoverrun of timer ", id), SYS_timer_getoverrun, {id}));
  }
  return ask;
}

absl::Status TakeAnswers(const TimerQuestions& questions, const ptrace::ProgramResult& result, CaptureContext& context) {
  for (size_t which = 0; which < kIntervalTimers; ++which) {
    const auto value = result.Data<itimerval>(questions.intervals + which * sizeof(itimerval));
    context.process.interval_timers.emplace_back(Ns(value.it_interval), Ns(value.it_value));
  }
  for (size_t i = 0; i < questions.posix.size(); ++i) {
    const proc::PosixTimer& seen = questions.posix[i];
    const auto value = result.Data<itimerspec>(questions.posix_values + i * sizeof(itimerspec));
    // A CPU clock has the pid it counts for in it; 0 is whoever made the timer.
    if (seen.clock < 0 && ~(seen.clock >> 3) != 0) {
      return Refuse(absl::StrCat("POSIX timer ", seen.id, " runs on the CPU clock of another process or thread"), "delete the timer");
    }
    if (seen.clock == CLOCK_THREAD_CPUTIME_ID && context.tracee.threads().size() > 1) {
      return Refuse(absl::StrCat("POSIX timer ", seen.id, " runs on the CPU clock of one thread"), "delete the timer");
    }
    if (seen.clock == CLOCK_REALTIME_ALARM || seen.clock == CLOCK_BOOTTIME_ALARM) {
      return Refuse(absl::StrCat("POSIX timer ", seen.id, " runs on an alarm clock, which wakes the machine"), "delete the timer");
    }
    auto timer = std::make_unique<image::PosixTimerT>();
    timer->id = seen.id;
    timer->clock = seen.clock;
    timer->notify = seen.notify | (seen.thread ? SIGEV_THREAD_ID : 0);
    timer->signo = seen.signo;
    timer->sigval = seen.sigval;
    if (seen.thread) {
      MOULT_ASSIGN_OR_RETURN(timer->tid, InnerTid(context, seen.target));
    }
    timer->interval_ns = Ns(value.it_interval);
    timer->remaining_ns = Ns(value.it_value);
    timer->overrun = static_cast<int32_t>(result.result(questions.overrun_ops[i]));
    // No call sets it: it is of the last signal that was taken.
    if (timer->overrun != 0) context.Note(absl::StrCat("timer_getoverrun of POSIX timer ", seen.id, " begins at 0 again (was ", timer->overrun, ")"));
    context.process.posix_timers.push_back(std::move(timer));
  }
  // The kernel lists the newest first; they are made again in the order of their ids.
  std::sort(context.process.posix_timers.begin(), context.process.posix_timers.end(),
            [](const auto& a, const auto& b) { return a->id < b->id; });
  return absl::OkStatus();
}

}  // namespace moult::engine
