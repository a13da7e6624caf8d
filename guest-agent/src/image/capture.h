// SPDX-License-Identifier: Apache-2.0
//
// Takes a live process apart into a template.
#ifndef MOULT_IMAGE_CAPTURE_H_
#define MOULT_IMAGE_CAPTURE_H_

#include <sys/types.h>

#include <functional>
#include <string>
#include <vector>

#include "image/known_digests.h"
#include "image/page_report.h"
#include "image/phases.h"
#include "moult/base/status.h"
#include "moult/protocol/schema.h"

namespace moult::engine {

struct CaptureResult {
  pid_t pid = 0;
  std::string name;
  uint64_t stopped_us = 0;  // how long the process stood still
  uint64_t total_us = 0;
  uint64_t user_state_bytes = 0;
  size_t threads = 0;
  size_t vmas = 0;
  size_t fds = 0;
  Phases phases;
  // The process slept when it was stopped, so that most was known by then.
  bool asked_before = false;
  std::vector<std::string> notes;
};

struct CaptureOptions {
  bool leave_running = false;
  // Of files that the process uses; more are added before it is stopped. Null: none is known.
  KnownDigests* known = nullptr;
  // Asked between steps, and last before anything is published or ended: false gives the capture up.
  std::function<bool()> may_go_on = [] { return true; };
  // Without leave_running: asked when all is published and the process still stands; false lets it run on. Who answers
  // true may have ended the process already; then the result is `so_far`, whatever comes after.
  std::function<bool(const CaptureResult& so_far)> may_end = [](const CaptureResult&) { return true; };
};

// Captures `pid` into the new template folder `dir`. On an error the process runs on as before and `dir` is
// as it was. Blocking; one call at a time per process. The calling process must be single-threaded but for
// threads that never trace (ptrace ties a tracee to the thread that seized it).
absl::StatusOr<CaptureResult> Capture(pid_t pid, const std::string& dir, const CaptureOptions& options);

// A process that stands still, as its host gets to know it.
struct StoppedProcess {
  const image::ProcessImageT& image;       // pages_offset of its runs: into the content that `pages` names
  const image::ManifestT& manifest;        // without digests and sizes
  const std::vector<GpaRun>& pages;        // in the order of the content
  uint64_t pages_size;                     // bytes
  const CaptureResult& so_far;
  // Whether the pages are still where `pages` says; kAborted when the kernel moved some.
  std::function<absl::Status()> check_unmoved;
};
enum class CaptureOutcome { kResume, kEnd };

// The same, but names the pages by guest-physical address instead of copying them: whoever has the guest's RAM
// reads them in `deliver`, which is called while the process stands still. When `deliver` fails, and when the
// kernel moved a page before a resume (kAborted: try again), the process runs on and nothing that was read counts.
// Who answers kEnd has called check_unmoved() before it relied on what it read. options.leave_running is not looked at.
absl::StatusOr<CaptureResult> CaptureInPlace(
    pid_t pid, const CaptureOptions& options,
    const std::function<absl::StatusOr<CaptureOutcome>(const StoppedProcess&)>& deliver);

}  // namespace moult::engine

#endif  // MOULT_IMAGE_CAPTURE_H_
