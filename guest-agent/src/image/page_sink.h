// SPDX-License-Identifier: Apache-2.0
//
// Where page content goes while a process is captured: copied (PageStage), or only named, for a host that
// reads guest RAM itself (PageReport).
#ifndef MOULT_IMAGE_PAGE_SINK_H_
#define MOULT_IMAGE_PAGE_SINK_H_

#include <cstdint>
#include <vector>

#include "absl/types/span.h"
#include "moult/base/status.h"
#include "moult/protocol/schema.h"
#include "ptrace/tracee.h"

namespace moult::engine {

struct AddressRange {
  uint64_t start;
  uint64_t length;
};

class PageSink {
 public:
  PageSink() = default;
  virtual ~PageSink() = default;
  PageSink(const PageSink&) = delete;
  PageSink& operator=(const PageSink&) = delete;

  // Takes `ranges` of the tracee's memory; their runs are in `*runs` at the latest when the capture is done.
  // `forced`: the ranges are not readable to the process itself.
  virtual absl::Status StageRemote(const ptrace::Tracee& tracee, absl::Span<const AddressRange> ranges, bool forced,
                                   std::vector<image::PageRun>* runs) = 0;
  // Takes the data (not the holes) of the first `size` bytes of `fd`; a last partial page is filled with zeros.
  virtual absl::Status StageFile(int fd, uint64_t size, std::vector<image::PageRun>* runs) = 0;
  // What was taken may still be on its way until this has returned; the process must stand still as long.
  virtual absl::Status AwaitCopies() { return absl::OkStatus(); }
};

}  // namespace moult::engine

#endif  // MOULT_IMAGE_PAGE_SINK_H_
