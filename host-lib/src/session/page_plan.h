// SPDX-License-Identifier: Apache-2.0
//
// Which pages of a captured function are kept, and where.
#ifndef MOULT_HOST_SESSION_PAGE_PLAN_H_
#define MOULT_HOST_SESSION_PAGE_PLAN_H_

#include <cstddef>
#include <cstdint>
#include <vector>

#include "absl/types/span.h"
#include "moult/protocol/schema.h"

namespace moult::host {

// The agent describes content as `pages_size` bytes in its own order, and the image's runs point into that.
// Pages that are zero need no content where zero is what is there anyway: in anonymous memory and in objects.
// A zero page copied from a private *file* mapping must stay, or the file would show through.
class PagePlan {
 public:
  // `image` must be valid for `pages_size`.
  PagePlan(const image::ProcessImageT& image, uint64_t pages_size);

  // The next page's content; to be called once for each page, in order. True: it is to be written next.
  bool Take(const std::byte* page);
  uint64_t dropped() const { return dropped_; }

  // Once every page was taken: makes the image's runs point at what was written.
  void Rewrite(image::ProcessImageT* image) const;

 private:
  std::vector<image::PageRun> Rewritten(const std::vector<image::PageRun>& runs) const;

  static constexpr uint64_t kMustKeep = 1;  // in offsets_ before the page was taken, else 0
  static constexpr uint64_t kDropped = UINT64_MAX;
  std::vector<uint64_t> offsets_;  // by page: its new offset, or kDropped
  size_t next_ = 0;
  uint64_t written_ = 0;
  uint64_t dropped_ = 0;
};

// Whether 4096 bytes are all zero. `page` may change meanwhile: then either answer is right.
bool IsZeroPage(const std::byte* page);

}  // namespace moult::host

#endif  // MOULT_HOST_SESSION_PAGE_PLAN_H_
