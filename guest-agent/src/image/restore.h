// SPDX-License-Identifier: Apache-2.0
//
// Makes running processes from a template.
#ifndef MOULT_IMAGE_RESTORE_H_
#define MOULT_IMAGE_RESTORE_H_

#include <sys/types.h>

#include <string>
#include <vector>

#include "image/phases.h"
#include "moult/base/status.h"

namespace moult::engine {

struct RestoreOptions {
  bool sandbox = false;
  int count = 1;              // more than one needs a sandbox
};

struct RestoredProcess {
  pid_t pid = 0;              // as the caller sees it
  pid_t sandbox_init = 0;     // 0: no sandbox
};

struct RestoreResult {
  std::vector<RestoredProcess> processes;
  uint64_t total_us = 0;
  Phases phases;
  std::vector<std::string> notes;
};

// All or nothing: on an error no process of this call is left. The processes run, detached, when it returns;
// they are children of the caller (or of their sandbox's init) until it ends.
absl::StatusOr<RestoreResult> Restore(const std::string& dir, const RestoreOptions& options);

}  // namespace moult::engine

#endif  // MOULT_IMAGE_RESTORE_H_
