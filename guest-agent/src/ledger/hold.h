// SPDX-License-Identifier: Apache-2.0
//
// Page frames that stay what they are, through the driver (MOULT_HOLD, MOULT_KEEP and MOULT_LIST of
// kernel-patch/include/uapi/linux/moult.h).
#ifndef MOULT_LEDGER_HOLD_H_
#define MOULT_LEDGER_HOLD_H_

#include <sys/types.h>

#include <functional>
#include <vector>

#include "ledger/exclusive.h"
#include "moult/base/status.h"
#include "moult/base/unique_fd.h"

namespace moult::agent {

class FrameHold {
 public:
  // kNotFound: no driver. kFailedPrecondition: one that cannot hold frames.
  static absl::StatusOr<FrameHold> Open();

  // Holds the frames of `runs` as well, and gives back which of them the kernel let it hold.
  absl::StatusOr<std::vector<FrameRun>> Hold(const std::vector<FrameRun>& runs);
  // The memory of process `pid` stays as it is when the process ends. Until Release(); when this is destroyed without, the
  // kernel first fills it with zeros.
  absl::Status Keep(pid_t pid);
  // The frames that kept memory has for itself, in no order; they are held. All its processes must have ended.
  absl::StatusOr<std::vector<FrameRun>> ListKept();
  // Everything goes back to the kernel, as it is.
  absl::Status Release();

 private:
  explicit FrameHold(UniqueFd device) : device_(std::move(device)) {}
  UniqueFd device_;  // its close lets go
};

// Calls `find` and holds what it found, until it finds again what is held: then no frame has moved since it
// was looked up, and none will. kAborted: the kernel moved some each time, or does not let them be held.
absl::StatusOr<std::vector<FrameRun>> HoldWhatIsFound(
    const std::function<absl::StatusOr<std::vector<FrameRun>>()>& find,
    const std::function<absl::StatusOr<std::vector<FrameRun>>(const std::vector<FrameRun>&)>& hold);

}  // namespace moult::agent

#endif  // MOULT_LEDGER_HOLD_H_
