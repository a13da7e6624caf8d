// SPDX-License-Identifier: Apache-2.0
//
// Page content on its way from a guest into a template. While the function stands still its pages are only
// copied to memory of ours; they are written when it runs again.
#ifndef MOULT_HOST_SESSION_STAGED_PAGES_H_
#define MOULT_HOST_SESSION_STAGED_PAGES_H_

#include <cstddef>
#include <cstdint>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "moult/protocol/template_writer.h"
#include "session/page_plan.h"

namespace moult::host {

class StagedPages {
 public:
  // At most so much is kept in memory; what is more is written at once.
  static constexpr uint64_t kMost = 256 << 20;

  explicit StagedPages(image::TemplateWriter* writer, uint64_t most = kMost);
  StagedPages(const StagedPages&) = delete;
  StagedPages& operator=(const StagedPages&) = delete;
  ~StagedPages();

  // A step of making memory ready for as much as most functions have, so that its faults are not taken while
  // the function stands still; how much will come is not known before. False: that was the last one.
  bool Prepare();
  // Takes those pages of `memory` that `plan` wants; they may change afterwards.
  absl::Status Take(absl::Span<const std::byte> memory, PagePlan* plan);
  // Writes what was taken. Blocks on the disk.
  absl::Status Write();

 private:
  image::TemplateWriter* const writer_;
  int error_ = 0;  // why there is no buffer
  absl::Span<std::byte> mapped_;
  absl::Span<std::byte> buffer_;  // in it
  uint64_t prepared_ = 0;
  uint64_t used_ = 0;
};

}  // namespace moult::host

#endif  // MOULT_HOST_SESSION_STAGED_PAGES_H_
