// SPDX-License-Identifier: Apache-2.0
//
// The `file:` pool's pages: a file without a name, so that nothing of it outlives the process.
#ifndef MOULT_HOST_POOL_FILE_PAGE_FILE_H_
#define MOULT_HOST_POOL_FILE_PAGE_FILE_H_

#include <condition_variable>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "moult/base/unique_fd.h"
#include "pool/checked_slots.h"
#include "pool/page_pool.h"

namespace moult::host {

// Reads and writes block on the file system, without bound where that has none (NFS); bounded_pool.h bounds
// them. The lock is never held over them. Each page's checksum is held against it at each read (checked_slots.h).
class PageFile final : public PagePool {
 public:
  // `limit` in bytes, rounded down to pages. kUnimplemented: a file system without O_TMPFILE.
  static absl::StatusOr<std::unique_ptr<PageFile>> Create(const std::string& folder, uint64_t limit);

  absl::Status Write(absl::Span<const std::byte> pages, absl::Span<PoolSlot> slots) override;
  absl::Status Read(absl::Span<const PoolSlot> slots, absl::Span<std::byte> pages) override;
  // Space goes back to the file system when 1 MiB has gathered, or nothing is in use.
  void Free(absl::Span<const PoolSlot> slots) override;
  // What is in the page cache; and without giving space back.
  bool ReadNow(absl::Span<const PoolSlot> slots, absl::Span<std::byte> pages) override;
  bool FreeNow(absl::Span<const PoolSlot> slots) override;

  uint64_t used_bytes() const override;
  uint64_t limit_bytes() const override { return limit_; }
  const std::string& name() const override { return name_; }
  // For tests, which damage it.
  int fd() const { return fd_.get(); }

 private:
  // So many are given back to the file system at once.
  static constexpr uint64_t kPunchPages = 256;
  PageFile(std::string name, UniqueFd fd, uint64_t limit);
  // Gives back what is pending when `wanted` slots would not fit beside it, and waits for what others give back.
  void Flush(uint64_t wanted);
  std::vector<SlotRun> TakePending();
  bool GivesBack() const { return pending_pages_ > 0 && (pending_pages_ >= kPunchPages || pending_pages_ == slots_.used()); }
  void GiveBack(std::vector<SlotRun> runs);
  void Punch(SlotRun run) const;

  const std::string name_;
  const UniqueFd fd_;
  const uint64_t limit_;
  CheckedSlots slots_;
  mutable std::mutex mutex_;  // guards the rest
  // Freed, and not yet given back to the file system: nobody takes them before, so that no hole is punched
  // into what was written since.
  std::vector<SlotRun> pending_;
  uint64_t pending_pages_ = 0;
  uint64_t giving_pages_ = 0;  // in GiveBack, which may take long
  std::condition_variable given_;
};

}  // namespace moult::host

#endif  // MOULT_HOST_POOL_FILE_PAGE_FILE_H_
