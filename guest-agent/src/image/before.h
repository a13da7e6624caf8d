// SPDX-License-Identifier: Apache-2.0
//
// What is asked of a process before it is stopped, so that it need not stand still for it. It counts only if
// no thread has run between the question and the stop; then nothing that only the process itself can change
// has changed. What others may change meanwhile (priority, limits) is as of just before the stop.
//
// Whether a thread has run, the scheduler tells: how often it was put on a CPU (schedstat). The stop itself
// wakes a sleeping thread, once, in the call that it was asleep in. A thread that ran but once and stands in
// that very call, interrupted, has done nothing else.
#ifndef MOULT_IMAGE_BEFORE_H_
#define MOULT_IMAGE_BEFORE_H_

#include <sys/types.h>

#include <memory>
#include <string>
#include <vector>

#include "moult/base/status.h"
#include "moult/base/unique_fd.h"
#include "moult/protocol/schema.h"
#include "proc/maps.h"
#include "proc/status.h"
#include "proc/values.h"
#include "ptrace/tracee.h"

namespace moult::engine {

struct ThreadBefore {
  pid_t tid = 0;
  UniqueFd schedstat;
  uint64_t runs = 0;
  proc::SleepingCall call;
  proc::Status status;
  std::unique_ptr<image::SchedulingT> scheduling;
};

class Before {
 public:
  // Asks, again if the process runs meanwhile, a few times. Never fails: what cannot be asked now, or not
  // without the process running, is asked when it stands still.
  static Before Ask(pid_t pid);

  // Whether the stopped process has slept since it was asked; if not, everything here is emptied.
  bool Settle(const ptrace::Tracee& tracee);

  // After Settle. Null where it must be asked of the stopped thread.
  ThreadBefore* Find(pid_t tid);
  const std::vector<proc::SmapsEntry>* layout() const { return slept_ ? &layout_ : nullptr; }
  size_t vmas() const { return layout_.size(); }
  // No thread had children, or anything that it does not share with the leader.
  bool is_plain() const { return slept_ && plain_; }

 private:
  bool AskOnce(pid_t pid);
  bool AskThread(pid_t pid, pid_t tid);
  bool SleptThrough(const ptrace::Tracee& tracee);

  std::vector<ThreadBefore> threads_;  // rising
  std::vector<proc::SmapsEntry> layout_;
  std::string statm_;
  bool plain_ = false;
  bool complete_ = false;
  bool slept_ = false;
};

}  // namespace moult::engine

#endif  // MOULT_IMAGE_BEFORE_H_
