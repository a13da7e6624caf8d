// SPDX-License-Identifier: Apache-2.0
#include "session/page_plan.h"

#include <algorithm>
#include <cstring>

#include "memory/guest_memory.h"

namespace moult::host {

bool IsZeroPage(const std::byte* page) {
  constexpr size_t kStep = 64;
  uint64_t words[kStep / sizeof(uint64_t)];
  for (size_t at = 0; at < kPage; at += kStep) {
    std::memcpy(words, page + at, kStep);
    uint64_t any = 0;
    for (const uint64_t word : words) any |= word;
    if (any != 0) return false;
  }
  return true;
}

PagePlan::PagePlan(const image::ProcessImageT& image, uint64_t pages_size) : offsets_(pages_size / kPage) {
  const image::MemoryMapT& memory = *image.processes[0]->memory;
  size_t at = 0;
  for (const image::PageRun& run : memory.runs) {
    // Both rise, and every run is inside one vma: ValidateImage.
    while (memory.vmas[at]->end <= run.start()) ++at;
    if (memory.vmas[at]->kind == image::VmaKind::Anonymous) continue;
    const uint64_t first = run.pages_offset() / kPage;
    std::fill_n(offsets_.begin() + static_cast<ptrdiff_t>(first), run.length() / kPage, kMustKeep);
  }
}

bool PagePlan::Take(const std::byte* page) {
  uint64_t& offset = offsets_[next_++];
  if (offset != kMustKeep && IsZeroPage(page)) {
    offset = kDropped;
    ++dropped_;
    return false;
  }
  offset = written_;
  written_ += kPage;
  return true;
}

std::vector<image::PageRun> PagePlan::Rewritten(const std::vector<image::PageRun>& runs) const {
  std::vector<image::PageRun> result;
  for (const image::PageRun& run : runs) {
    for (uint64_t at = 0; at < run.length(); at += kPage) {
      const uint64_t offset = offsets_[(run.pages_offset() + at) / kPage];
      if (offset == kDropped) continue;
      // Joined only within one of the agent's runs: those end where a mapping does.
      if (at != 0 && !result.empty()) {
        image::PageRun& last = result.back();
        if (last.start() + last.length() == run.start() + at && last.start() >= run.start() &&
            last.pages_offset() + last.length() == offset) {
          last = image::PageRun(last.start(), last.length() + kPage, last.pages_offset());
          continue;
        }
      }
      result.emplace_back(run.start() + at, kPage, offset);
    }
  }
  return result;
}

void PagePlan::Rewrite(image::ProcessImageT* image) const {
  image::MemoryMapT& memory = *image->processes[0]->memory;
  memory.runs = Rewritten(memory.runs);
  for (const auto& object : image->objects) object->runs = Rewritten(object->runs);
  for (const auto& file : image->private_files) file->runs = Rewritten(file->runs);
}

}  // namespace moult::host
