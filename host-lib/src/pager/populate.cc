// SPDX-License-Identifier: Apache-2.0
#include <sys/mman.h>

#include <algorithm>
#include <thread>

#include "moult/base/status.h"
#include "pager/pager.h"

namespace moult::host {
namespace {

constexpr std::chrono::milliseconds kPause{20};

}  // namespace

absl::Status Pager::Populate(GuestRange range) {
  MOULT_ASSIGN_OR_RETURN(const PageId first, table_.First(range));
  const uint64_t pages = range.length / kPage;
  PageBuffer buffer(kPiecePages);
  for (uint64_t done = 0; done < pages; done += kPiecePages) {
    const absl::Status status = PopulatePiece(first + done, std::min(kPiecePages, pages - done), &buffer);
    if (!status.ok()) return Annotate(status, absl::StrCat("populate ", range.Text()));
  }
  return absl::OkStatus();
}

absl::Status Pager::PopulatePiece(PageId first, uint64_t count, PageBuffer* buffer) {
  const Clock::time_point deadline = Clock::now() + config_.read_deadline;
  for (;;) {
    std::vector<unsigned char> there(count);
    const absl::Span<std::byte> host = table_.Host(first, count);
    if (mincore(host.data(), host.size(), there.data()) != 0) return ErrnoStatus("mincore");
    std::vector<Record*> claimed;
    std::vector<PageId> holes;
    bool busy = false;
    bool lost = false;
    {
      std::unique_lock<std::mutex> lock(mutex_);
      for (uint64_t i = 0; i < count; ++i) {
        const PageId page = first + i;
        const Chunk* const chunk = table_.chunk(PageTable::ChunkOf(page));
        Record* const record = table_.Get(page);
        if (record == nullptr) {
          if (chunk == nullptr || !chunk->registered || (there[i] & 1) != 0) continue;
          table_.Set(page, &hole_);
          holes.push_back(page);
        } else if (record->state == PageState::kOut || record->state == PageState::kFailed) {
          record->state = PageState::kComing;
          claimed.push_back(record);
        } else if (record->state == PageState::kLost) {
          lost = true;
        } else if (record->state != PageState::kCopying) {
          busy = true;
        }
      }
      if (busy && claimed.empty() && holes.empty()) changed_.wait_for(lock, kPause);
    }
    absl::Status status;
    if (!claimed.empty()) status = Bring(claimed, nullptr, buffer);
    for (const PageSpan& run : SortedRuns(table_, holes)) status.Update(FillHoles(run.first, run.count));
    EndHoles(holes);
    if (lost) return absl::DataLossError("a page is lost; resolve it (zeros, poison, or another try)");
    if (status.ok() && !busy) return absl::OkStatus();
    if (Clock::now() >= deadline) {
      return absl::DeadlineExceededError(status.ok() ? "a page is busy with another call" : status.message());
    }
    if (!status.ok()) std::this_thread::sleep_for(kPause);
  }
}

}  // namespace moult::host
