// SPDX-License-Identifier: Apache-2.0
#include "session/staged_pages.h"

#include <sys/mman.h>
#include <sys/uio.h>

#include <algorithm>
#include <cstring>

#include "memory/guest_memory.h"
#include "memory/mapping_error.h"
#include "moult/base/status.h"

namespace moult::host {
namespace {

constexpr uint64_t kHugePage = 2 << 20;
constexpr uint64_t kPrepared = 32 << 20;
// Hashing begins with the first piece that is written.
constexpr uint64_t kWriteStep = 4 << 20;

}  // namespace

StagedPages::StagedPages(image::TemplateWriter* writer, uint64_t most) : writer_(writer) {
  const uint64_t size = most + kHugePage;
  void* memory =
      mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) {
    error_ = errno;
    return;
  }
  mapped_ = {static_cast<std::byte*>(memory), size};
  // From where a huge page begins: one fault for 512 pages. There may be none, which is no harm.
  buffer_ = mapped_.subspan((kHugePage - reinterpret_cast<uintptr_t>(memory) % kHugePage) % kHugePage, most);
  (void)madvise(buffer_.data(), buffer_.size(), MADV_HUGEPAGE);
}

StagedPages::~StagedPages() {
  if (!mapped_.empty()) munmap(mapped_.data(), mapped_.size());
}

bool StagedPages::Prepare() {
  const uint64_t end = std::min<uint64_t>({buffer_.size(), kPrepared, prepared_ + kHugePage});
  for (; prepared_ < end; prepared_ += kPage)
    static_cast<volatile std::byte&>(buffer_[prepared_]) = std::byte{0};
  return prepared_ < std::min<uint64_t>(buffer_.size(), kPrepared);
}

absl::Status StagedPages::Take(absl::Span<const std::byte> memory, PagePlan* plan) {
  if (buffer_.empty())
    return absl::ResourceExhaustedError(
        absl::StrCat("no place for the pages of the function: mmap: ", ErrnoName(error_), kMappingRemedy));
  for (size_t at = 0; at < memory.size(); at += kPage) {
    const std::byte* page = memory.data() + at;
    if (!plan->Take(page)) continue;
    if (used_ == buffer_.size()) MOULT_RETURN_IF_ERROR(Write());
    std::memcpy(buffer_.data() + used_, page, kPage);
    used_ += kPage;
  }
  return absl::OkStatus();
}

absl::Status StagedPages::Write() {
  for (uint64_t at = 0; at < used_; at += kWriteStep) {
    const struct iovec part { buffer_.data() + at, std::min(used_ - at, kWriteStep) };
    MOULT_RETURN_IF_ERROR(writer_->AppendPages({&part, 1}).status());
  }
  used_ = 0;
  return absl::OkStatus();
}

}  // namespace moult::host
