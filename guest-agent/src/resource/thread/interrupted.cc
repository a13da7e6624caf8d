// SPDX-License-Identifier: Apache-2.0
#include "resource/thread/interrupted.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <ctime>

#include <linux/futex.h>
#include <sys/syscall.h>

#include "absl/strings/match.h"
#include "proc/read.h"

namespace moult::engine {
namespace {

constexpr uint64_t kErestartRestartBlock = static_cast<uint64_t>(-516);

std::optional<int64_t> ReadTimespec(uint64_t address, const ReadMemory& read) {
  timespec time{};
  if (address == 0 || !read(address, absl::MakeSpan(reinterpret_cast<std::byte*>(&time), sizeof(time))).ok()) return std::nullopt;
  if (time.tv_sec < 0 || time.tv_sec > INT64_MAX / 2'000'000'000 || time.tv_nsec < 0 || time.tv_nsec > 999'999'999) return std::nullopt;
  return time.tv_sec * 1'000'000'000 + time.tv_nsec;
}

// A call that was interrupted twice has become restart_syscall; its number is then in the code before the
// `syscall` instruction: mov $nr, %eax; syscall.
long NumberFromCode(uint64_t rip, const ReadMemory& read) {
  std::array<unsigned char, 7> code{};
  if (rip < code.size() || !read(rip - code.size(), absl::MakeSpan(reinterpret_cast<std::byte*>(code.data()), code.size())).ok()) return -1;
  if (code[0] != 0xb8 || code[5] != 0x0f || code[6] != 0x05) return -1;
  uint32_t nr;
  std::memcpy(&nr, &code[1], sizeof(nr));
  return nr;
}

}  // namespace

std::map<pid_t, SleepKind> RestartedSleeps(pid_t pid) {
  std::map<pid_t, SleepKind> sleeps;
  auto tids = proc::ListNumeric(absl::StrCat("/proc/", pid, "/task"));
  if (!tids.ok()) return sleeps;
  for (const pid_t tid : *tids) {
    const std::string task = absl::StrCat("/proc/", pid, "/task/", tid);
    auto call = proc::ReadFile(task + "/syscall");
    if (!call.ok() || !absl::StartsWith(*call, absl::StrCat(SYS_restart_syscall, " "))) continue;
    auto place = proc::ReadFile(task + "/wchan");
    if (!place.ok()) continue;
    // These and timers are all that the kernel restarts so; the functions of a timer's sleep count as part of
    // the scheduler, which wchan leaves out.
    sleeps[tid] = absl::StrContains(*place, "poll")    ? SleepKind::kPoll
                  : absl::StrContains(*place, "futex") ? SleepKind::kFutex
                                                       : SleepKind::kTimer;
  }
  return sleeps;
}

CancelledTimers CancelledTimers::Before() {
  CancelledTimers timers;
  auto text = proc::ReadFile("/proc/timer_list");
  if (!text.ok()) return timers;
  auto list = proc::ParseTimerList(*text);
  if (list.ok()) timers.before_ = std::move(*list);
  return timers;
}

std::optional<int64_t> CancelledTimers::Remaining(int64_t requested_ns) {
  if (before_.empty()) return std::nullopt;
  if (!remaining_) {
    remaining_.emplace();
    const CancelledTimers now = Before();
    for (const proc::WakeupTimer& timer : before_) {
      const auto same = [&](const proc::WakeupTimer& other) { return other.id == timer.id && other.expires_ns == timer.expires_ns; };
      if (std::none_of(now.before_.begin(), now.before_.end(), same)) remaining_->push_back(timer.remaining_ns);
    }
  }
  std::optional<int64_t> longest;
  for (const int64_t remaining : *remaining_) {
    if (remaining <= requested_ns && remaining > longest.value_or(0)) longest = remaining;
  }
  return longest;
}

long NumberOfRestarted(const image::GpRegs& regs, SleepKind kind) {
  switch (kind) {
    case SleepKind::kTimer:
      // clock_nanosleep begins with a small number, nanosleep with a pointer.
      return regs.rdi() < 4096 ? SYS_clock_nanosleep : SYS_nanosleep;
    case SleepKind::kPoll:
      return SYS_poll;
    case SleepKind::kFutex:
      return SYS_futex;
    case SleepKind::kUnknown:
      break;
  }
  return -1;
}

InterruptedCall ClassifyInterrupted(const image::GpRegs& regs, const ReadMemory& read) {
  InterruptedCall call;
  if (regs.rax() != kErestartRestartBlock || static_cast<int64_t>(regs.orig_rax()) < 0) return call;
  call.kind = InterruptedCall::Kind::kRestartBlock;
  call.nr = static_cast<long>(regs.orig_rax());
  if (call.nr == SYS_restart_syscall) call.nr = NumberFromCode(regs.rip(), read);
  switch (call.nr) {
    case SYS_nanosleep:
      call.requested_ns = ReadTimespec(regs.rdi(), read);
      // The kernel wrote what remained to rmtp when the sleep was interrupted. rmtp may be the same struct.
      call.remaining_ns = ReadTimespec(regs.rsi(), read);
      break;
    case SYS_clock_nanosleep:
      call.requested_ns = ReadTimespec(regs.rdx(), read);
      call.remaining_ns = ReadTimespec(regs.r10(), read);
      break;
    case SYS_poll:
      call.requested_ns = static_cast<int64_t>(static_cast<int32_t>(regs.rdx())) * 1'000'000;
      break;
    case SYS_futex: {
      const uint64_t operation = regs.rsi() & static_cast<uint64_t>(FUTEX_CMD_MASK);
      call.absolute = operation != FUTEX_WAIT;
      if (!call.absolute) call.requested_ns = ReadTimespec(regs.r10(), read);
      break;
    }
    default:
      call.nr = -1;
      break;
  }
  return call;
}

}  // namespace moult::engine
