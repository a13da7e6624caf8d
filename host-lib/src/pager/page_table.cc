// SPDX-License-Identifier: Apache-2.0
#include "pager/page_table.h"

#include <algorithm>

#include "moult/base/status.h"

namespace moult::host {
namespace {

constexpr uint64_t kChunkBytes = Chunk::kPages * kPage;

}  // namespace

PageTable::PageTable(const GuestMemory* memory) : memory_(memory) {
  uint64_t next = 0;  // a whole chunk
  for (const GuestMemory::Extent& extent : memory->Extents()) {
    const auto host = memory->Translate(extent.range);
    if (!host.ok()) continue;
    const uint64_t inside = reinterpret_cast<uint64_t>(host->data()) % kChunkBytes / kPage;
    const uint64_t pages = extent.range.length / kPage;
    regions_.push_back({extent.range, PageId(next + inside), extent.shared});
    next += (inside + pages + Chunk::kPages - 1) / Chunk::kPages * Chunk::kPages;
  }
  chunks_.resize(next / Chunk::kPages);
}

absl::StatusOr<PageId> PageTable::First(GuestRange range) const {
  if ((range.first() | range.length) % kPage != 0 || range.length == 0) {
    return absl::InvalidArgumentError(absl::StrCat(range.Text(), ": not whole pages"));
  }
  MOULT_RETURN_IF_ERROR(memory_->Translate(range).status());
  const auto next = std::upper_bound(regions_.begin(), regions_.end(), range.first(),
                                     [](uint64_t gpa, const Region& r) { return gpa < r.range.first(); });
  const Region& region = *std::prev(next);
  return region.first + (range.first() - region.range.first()) / kPage;
}

absl::StatusOr<PageId> PageTable::At(const std::byte* host) const {
  MOULT_ASSIGN_OR_RETURN(const GuestPhys gpa, memory_->GuestOf(host));
  return First({GuestPhys(static_cast<uint64_t>(gpa) / kPage * kPage), kPage});
}

const PageTable::Region& PageTable::Part(PageId page) const {
  const auto next = std::upper_bound(regions_.begin(), regions_.end(), page,
                                     [](PageId p, const Region& region) { return p < region.first; });
  return *std::prev(next);
}

GuestRange PageTable::Pages(PageId first, uint64_t count) const {
  const Region& region = Part(first);
  const uint64_t inside = static_cast<uint64_t>(first) - static_cast<uint64_t>(region.first);
  return {GuestPhys(region.range.first() + inside * kPage), count * kPage};
}

absl::Span<std::byte> PageTable::Host(PageId first, uint64_t count) const {
  return memory_->Translate(Pages(first, count)).value_or(absl::Span<std::byte>());
}

absl::Span<std::byte> PageTable::ChunkHost(uint64_t chunk) const {
  const uint64_t start = chunk * Chunk::kPages;
  // Each chunk has pages of one region; in a region's first chunk they need not begin at its start.
  const Region& region = Part(PageId(start + Chunk::kPages - 1));
  const uint64_t first = std::max(start, static_cast<uint64_t>(region.first));
  const uint64_t end = std::min(start + Chunk::kPages, static_cast<uint64_t>(region.first) + region.pages());
  return Host(PageId(first), end - first);
}

Chunk& PageTable::MakeChunk(uint64_t number) {
  if (chunks_[number] == nullptr) chunks_[number] = std::make_unique<Chunk>();
  return *chunks_[number];
}

Record* PageTable::Get(PageId page) {
  const Chunk* chunk = chunks_[ChunkOf(page)].get();
  return chunk == nullptr ? nullptr : chunk->pages[static_cast<uint64_t>(page) % Chunk::kPages];
}

void PageTable::Set(PageId page, Record* record) {
  Chunk& chunk = *chunks_[ChunkOf(page)];
  Record*& entry = chunk.pages[static_cast<uint64_t>(page) % Chunk::kPages];
  if (entry == nullptr && record != nullptr) ++chunk.records;
  if (entry != nullptr && record == nullptr) --chunk.records;
  entry = record;
}

std::vector<PageSpan> SortedRuns(const PageTable& table, std::vector<PageId> pages) {
  std::sort(pages.begin(), pages.end());
  std::vector<PageSpan> runs;
  for (const PageId page : pages) {
    if (!runs.empty() && runs.back().first + runs.back().count == page &&
        table.SameRegion(runs.back().first, page)) {
      ++runs.back().count;
    } else {
      runs.push_back({page, 1});
    }
  }
  return runs;
}

}  // namespace moult::host
