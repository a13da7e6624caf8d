// SPDX-License-Identifier: Apache-2.0
//
// System calls that the stop of a thread interrupted. Most are simply issued again by the kernel's own rules
// (-ERESTARTSYS and its kin in rax). Those with -ERESTART_RESTARTBLOCK wait for a *relative* time, whose end
// only the kernel's restart block knows, and the block is lost with the thread.
#ifndef MOULT_RESOURCE_THREAD_INTERRUPTED_H_
#define MOULT_RESOURCE_THREAD_INTERRUPTED_H_

#include <cstddef>
#include <cstdint>
#include <sys/types.h>

#include <functional>
#include <map>
#include <optional>
#include <vector>

#include "absl/types/span.h"
#include "moult/base/status.h"
#include "moult/protocol/schema.h"
#include "proc/timer_list.h"

namespace moult::engine {

struct InterruptedCall {
  enum class Kind { kOther, kRestartBlock };
  Kind kind = Kind::kOther;
  long nr = -1;                          // the call to issue again; -1: not known
  std::optional<int64_t> remaining_ns;   // of a relative sleep
  std::optional<int64_t> requested_ns;   // what the call asked for at first
  bool absolute = false;                 // its time is a point in time: issue it again as it was
};

// What a sleeping thread waits in, by the kernel function that /proc shows. A call that was interrupted and
// continued before is restart_syscall by now, and neither registers nor code always tell what it was.
enum class SleepKind { kUnknown, kTimer, kPoll, kFutex };
// For threads of `pid` that are in restart_syscall; to be asked while the process still runs.
std::map<pid_t, SleepKind> RestartedSleeps(pid_t pid);
// The call that a restarted sleep was at first; -1: not known.
long NumberOfRestarted(const image::GpRegs& regs, SleepKind kind);

// Ends of relative sleeps that the kernel does not tell of any thread: what its list of timers had before
// the process was stopped, and lacks now.
class CancelledTimers {
 public:
  // Before the stop. Without the right to read the list, nothing will be known.
  static CancelledTimers Before();
  // After the stop: at most how much remains of a sleep of `requested_ns`; never less than what really does.
  // nullopt: not known. Exact, unless a timer of someone else with a longer rest went at the same moment.
  std::optional<int64_t> Remaining(int64_t requested_ns);

 private:
  std::vector<proc::WakeupTimer> before_;
  std::optional<std::vector<int64_t>> remaining_;  // of those that are gone
};

using ReadMemory = std::function<absl::Status(uint64_t address, absl::Span<std::byte> out)>;

InterruptedCall ClassifyInterrupted(const image::GpRegs& regs, const ReadMemory& read);

}  // namespace moult::engine

#endif  // MOULT_RESOURCE_THREAD_INTERRUPTED_H_
