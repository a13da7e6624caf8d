// SPDX-License-Identifier: Apache-2.0
//
// What the pager knows of each page of guest RAM, and who may change how it is mapped.
#ifndef MOULT_HOST_PAGER_PAGE_TABLE_H_
#define MOULT_HOST_PAGER_PAGE_TABLE_H_

#include <array>
#include <cstdint>
#include <memory>
#include <vector>

#include "absl/types/span.h"
#include "memory/guest_memory.h"
#include "pool/page_pool.h"

namespace moult::host {

// A page of guest RAM. Neighbouring pages of one region have neighbouring numbers; those of a chunk differ in
// the low 9 bits only.
enum class PageId : uint64_t {};
inline PageId operator+(PageId page, uint64_t n) { return PageId(static_cast<uint64_t>(page) + n); }

struct Batch;

// The busy states (kCopying, kLeaving, kComing) belong to one thread each, which alone may change the page's
// mapping. A fault that meets one is not answered but noted; who ends the state wakes the page, so the access
// is made again and meets what there is then.
enum class PageState : uint8_t {
  kGone,     // the table does not name this record any more
  kCopying,  // there, write-protected, being copied to the pool. A fault takes it away: the page stays
  kLeaving,  // its content is in the pool, and it is being discarded
  kOut,      // in the pool
  kComing,   // being brought back
  kFailed,   // could not be read; tried again when the timer says so
  kLost,     // given up, until Resolve
};

struct Record {
  static constexpr PoolSlot kZero = PoolSlot(UINT64_MAX);
  PageId page{};
  PoolSlot slot = kZero;  // kZero: a page of zeros, which takes none
  uint64_t va = 0;
  Batch* batch = nullptr;
  uint32_t pid = 0;
  PageState state = PageState::kGone;
  bool noted = false;  // a fault waits for the end of a busy state
};

// The pages of one Offload in the order of their virtual addresses: neighbours here are fetched together.
// `live` counts the records that are not kGone, and one for the Offload itself; it goes with the last.
struct Batch {
  uint64_t owner = 0;
  std::vector<Record> records;  // not resized while any is live: the table points into it
  uint64_t live = 0;
};

// 2 MiB of host addresses, cut at the region's ends: what is registered as one.
struct Chunk {
  static constexpr uint64_t kPages = 512;
  std::array<Record*, kPages> pages{};
  uint32_t records = 0;  // entries that are not null
  uint32_t users = 0;    // Offloads that are about to make some
  bool registered = false;
};

// Addresses to numbers and back, and the entry of each page. Bounded by the size of the guest's RAM: 4 KiB
// for each chunk that ever had a page out. Not thread-safe, but for what is const.
class PageTable {
 public:
  explicit PageTable(const GuestMemory* memory);

  // `range`: whole pages, inside one region (else OutOfRange, InvalidArgument). The pages follow each other.
  absl::StatusOr<PageId> First(GuestRange range) const;
  absl::StatusOr<PageId> At(const std::byte* host) const;
  GuestRange Pages(PageId first, uint64_t count) const;
  // Through GuestMemory's translation. Empty where these are no pages of one region.
  absl::Span<std::byte> Host(PageId first, uint64_t count) const;
  bool shared(PageId page) const { return Part(page).shared; }
  bool SameRegion(PageId a, PageId b) const { return &Part(a) == &Part(b); }

  static uint64_t ChunkOf(PageId page) { return static_cast<uint64_t>(page) / Chunk::kPages; }
  uint64_t chunks() const { return chunks_.size(); }
  // The pages of a chunk: fewer than 512 at the ends of a region.
  absl::Span<std::byte> ChunkHost(uint64_t chunk) const;

  Chunk* chunk(uint64_t number) { return chunks_[number].get(); }  // null: never had one
  Chunk& MakeChunk(uint64_t number);
  Record* Get(PageId page);
  // Chunk must be there. Null: none.
  void Set(PageId page, Record* record);

 private:
  struct Region {
    GuestRange range;
    PageId first;
    bool shared;
    uint64_t pages() const { return range.length / kPage; }
  };
  const Region& Part(PageId page) const;

  const GuestMemory* const memory_;
  std::vector<Region> regions_;
  std::vector<std::unique_ptr<Chunk>> chunks_;
};

// Runs of pages that follow each other in one region, from pages in any order.
struct PageSpan {
  PageId first;
  uint64_t count;
};
std::vector<PageSpan> SortedRuns(const PageTable& table, std::vector<PageId> pages);

}  // namespace moult::host

#endif  // MOULT_HOST_PAGER_PAGE_TABLE_H_
