// SPDX-License-Identifier: Apache-2.0
//
// Makes running processes from a template.
#ifndef MOULT_IMAGE_RESTORE_H_
#define MOULT_IMAGE_RESTORE_H_

#include <sys/types.h>

#include <memory>
#include <string>
#include <vector>

#include "image/page_source.h"
#include "image/phases.h"
#include "moult/base/status.h"
#include "moult/protocol/schema.h"

namespace moult::engine {

class Sandbox;

struct RestoreOptions {
  bool sandbox = false;
  int count = 1;              // more than one needs a sandbox
  Sandbox* prepared = nullptr;  // made before, nobody in it yet: the one to use, with `sandbox` and a count of 1
  int cgroup = -1;            // descriptor of the cgroup v2 folder that the processes are born in; -1: the caller's
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

// The same from a template that is not in a folder. The caller has checked it (ValidateImage, digests) or
// trusts who has.
struct LooseTemplate {
  const std::string& name;    // for errors
  const image::ProcessImageT& image;
  const image::ManifestT& manifest;
  PageSource pages;
};
absl::StatusOr<RestoreResult> RestoreFrom(const LooseTemplate& from, const RestoreOptions& options);

// Restores one template again and again. What is the same every time is worked out in the first Run and kept.
class Restorer {
 public:
  // What `from` refers to lives longer, and does not change.
  explicit Restorer(const LooseTemplate& from);
  ~Restorer();
  Restorer(const Restorer&) = delete;
  Restorer& operator=(const Restorer&) = delete;
  absl::StatusOr<RestoreResult> Run(const RestoreOptions& options);
  // Between two runs, when there is time: does ahead what the next run would do first.
  void GetReady();

  class Impl;

 private:
  const std::unique_ptr<Impl> impl_;
};

}  // namespace moult::engine

#endif  // MOULT_IMAGE_RESTORE_H_
