// SPDX-License-Identifier: Apache-2.0
//
// What every kind of descriptor offers: a capture half and a restore half. Adding a kind means adding its
// folder and one line to the table in kinds.cc.
#ifndef MOULT_RESOURCE_FD_KINDS_H_
#define MOULT_RESOURCE_FD_KINDS_H_

#include <sys/stat.h>

#include <string>

#include "absl/types/span.h"
#include "image/capture_context.h"
#include "image/restore_context.h"
#include "proc/fdinfo.h"

namespace moult::engine {

// One open file description of the stopped process, through our own duplicate of its descriptor.
struct OpenDescription {
  int number;            // the lowest number it has in the process
  int fd;                // our duplicate; shares position, flags and queues with the process: leave no trace
  std::string link;      // what /proc/PID/fd/N shows
  struct stat st;
  proc::FdInfo info;
  uint32_t flags;        // F_GETFL
  uint32_t index;        // of its OpenFileT

  std::string Name() const { return absl::StrCat("fd ", number, " (", link, ")"); }
};

struct FdKind {
  const char* name;
  image::Resource type;
  bool (*matches)(const OpenDescription&);
  absl::Status (*capture)(CaptureContext&, const OpenDescription&, image::OpenFileT&);
  // Makes a descriptor for open file `index` in the process that is being built. Its number does not matter.
  absl::StatusOr<UniqueFd> (*restore)(RestoreContext&, uint32_t index);
  // What needs all descriptors at their numbers (epoll sets, locks). May be null.
  absl::Status (*finish)(RestoreContext&, uint32_t index);
};

absl::Span<const FdKind> FdKinds();

}  // namespace moult::engine

#endif  // MOULT_RESOURCE_FD_KINDS_H_
