// SPDX-License-Identifier: Apache-2.0
#include "pool/file/page_file.h"

#include <fcntl.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <utility>

#include "memory/guest_memory.h"
#include "moult/base/status.h"
#include "pool/file/file_system.h"

namespace moult::host {
namespace {

// For the next piece that other threads give back; one of them may have died of it. In slices: a machine that stands still for
// longer than all of them costs one.
constexpr std::chrono::milliseconds kGiveSlice(500);
constexpr int kGiveSlices = 4;

off_t At(uint64_t slot) { return static_cast<off_t>(slot * kPage); }

// Of those that follow each other from `first` on.
size_t EndOfRun(absl::Span<const PoolSlot> slots, size_t first) {
  size_t end = first + 1;
  while (end < slots.size() && static_cast<uint64_t>(slots[end]) == static_cast<uint64_t>(slots[first]) + (end - first)) ++end;
  return end;
}

absl::Status WriteAll(int fd, const std::byte* from, uint64_t bytes, off_t at) {
  while (bytes > 0) {
    const ssize_t n = pwrite(fd, from, bytes, at);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return ErrnoStatus(n == 0 ? ENOSPC : errno, "write");
    from += n;
    at += n;
    bytes -= static_cast<uint64_t>(n);
  }
  return absl::OkStatus();
}

absl::Status ReadAll(int fd, std::byte* to, uint64_t bytes, off_t at) {
  while (bytes > 0) {
    const ssize_t n = pread(fd, to, bytes, at);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0 && errno == EIO) return absl::DataLossError("read: EIO: the medium has lost it");
    if (n < 0) return ErrnoStatus("read");
    if (n == 0) return absl::DataLossError("read: the file was cut short");
    to += n;
    at += n;
    bytes -= static_cast<uint64_t>(n);
  }
  return absl::OkStatus();
}

}  // namespace

PageFile::PageFile(std::string name, UniqueFd fd, uint64_t limit)
    : name_(std::move(name)), fd_(std::move(fd)), limit_(limit), slots_(name_, limit) {}

absl::StatusOr<std::unique_ptr<PageFile>> PageFile::Create(const std::string& folder, uint64_t limit) {
  const std::string name = absl::StrCat("file:", folder);
  limit = std::min<uint64_t>(limit, INT64_MAX) / kPage * kPage;
  if (limit == 0)
    return absl::InvalidArgumentError(absl::StrCat("pool ", name, ": limit of less than a page"));
  MOULT_RETURN_IF_ERROR(CheckWritableFiles(folder, absl::StrCat("pool ", name)));
  UniqueFd fd(open(folder.c_str(), O_TMPFILE | O_RDWR | O_CLOEXEC, 0600));
  if (!fd.valid() && (errno == EOPNOTSUPP || errno == EISDIR)) {
    return absl::UnimplementedError(
        absl::StrCat("pool ", name, ": no O_TMPFILE on this file system; use tmpfs, ext4, xfs or btrfs"));
  }
  if (!fd.valid()) return ErrnoStatus(absl::StrCat("pool ", name, ": open"));
  return std::unique_ptr<PageFile>(new PageFile(name, std::move(fd), limit));
}

absl::Status PageFile::Write(absl::Span<const std::byte> pages, absl::Span<PoolSlot> slots) {
  Flush(slots.size());
  MOULT_ASSIGN_OR_RETURN(std::vector<SlotRun> runs, slots_.Take(pages, slots));
  const std::byte* from = pages.data();
  for (const SlotRun& run : runs) {
    const absl::Status status = WriteAll(fd_.get(), from, run.count * kPage, At(run.first));
    if (!status.ok()) {
      {
        const std::lock_guard<std::mutex> lock(mutex_);
        giving_pages_ += slots.size();
      }
      GiveBack(std::move(runs));
      return Annotate(status, absl::StrCat("pool ", name_));
    }
    from += run.count * kPage;
  }
  return absl::OkStatus();
}

absl::Status PageFile::Read(absl::Span<const PoolSlot> slots, absl::Span<std::byte> pages) {
  for (size_t i = 0; i < slots.size();) {
    const size_t end = EndOfRun(slots, i);
    const auto first = static_cast<uint64_t>(slots[i]);
    const absl::Status status = ReadAll(fd_.get(), pages.data() + i * kPage, (end - i) * kPage, At(first));
    if (!status.ok()) return Annotate(status, absl::StrCat("pool ", name_, ": slot ", first));
    i = end;
  }
  return slots_.Check(slots, pages);
}

void PageFile::Free(absl::Span<const PoolSlot> slots) {
  std::unique_lock<std::mutex> lock(mutex_);
  for (const PoolSlot slot : slots) Append(&pending_, static_cast<uint64_t>(slot));
  pending_pages_ += slots.size();
  // Again: what others freed meanwhile was left, because then this was not given back yet.
  while (GivesBack()) {
    std::vector<SlotRun> runs = TakePending();
    lock.unlock();
    GiveBack(std::move(runs));
    lock.lock();
  }
}

bool PageFile::ReadNow(absl::Span<const PoolSlot> slots, absl::Span<std::byte> pages) {
  for (size_t i = 0; i < slots.size();) {
    const size_t end = EndOfRun(slots, i);
    iovec to = {pages.data() + i * kPage, (end - i) * kPage};
    if (preadv2(fd_.get(), &to, 1, At(static_cast<uint64_t>(slots[i])), RWF_NOWAIT) != static_cast<ssize_t>(to.iov_len)) return false;
    i = end;
  }
  return slots_.Check(slots, pages).ok();
}

bool PageFile::FreeNow(absl::Span<const PoolSlot> slots) {
  const std::lock_guard<std::mutex> lock(mutex_);
  const uint64_t together = pending_pages_ + slots.size();
  if (together >= kPunchPages || together == slots_.used()) return false;
  for (const PoolSlot slot : slots) Append(&pending_, static_cast<uint64_t>(slot));
  pending_pages_ = together;
  return true;
}

void PageFile::Flush(uint64_t wanted) {
  std::unique_lock<std::mutex> lock(mutex_);
  int in_vain = 0;  // slices that have passed since another thread last gave something
  for (uint64_t used; (used = slots_.used()) + wanted > limit_ / kPage;) {
    if (used - pending_pages_ - giving_pages_ + wanted > limit_ / kPage) return;  // It is full.
    if (pending_pages_ > 0) {
      std::vector<SlotRun> runs = TakePending();
      lock.unlock();
      GiveBack(std::move(runs));
      lock.lock();
    } else {
      const uint64_t giving = giving_pages_;
      const bool passed = given_.wait_for(lock, kGiveSlice) == std::cv_status::timeout;
      in_vain = passed && giving_pages_ == giving ? in_vain + 1 : 0;
      if (in_vain == kGiveSlices) return;
    }
  }
}

// Under the lock; for GiveBack.
std::vector<SlotRun> PageFile::TakePending() {
  giving_pages_ += std::exchange(pending_pages_, 0);
  return std::exchange(pending_, {});
}

// Of pages that giving_pages_ counts.
void PageFile::GiveBack(std::vector<SlotRun> runs) {
  std::sort(runs.begin(), runs.end(), [](const SlotRun& a, const SlotRun& b) { return a.first < b.first; });
  for (size_t i = 0; i < runs.size();) {
    SlotRun whole = runs[i++];
    while (i < runs.size() && whole.first + whole.count == runs[i].first) whole.count += runs[i++].count;
    Punch(whole);
    const std::lock_guard<std::mutex> lock(mutex_);
    slots_.Give({&whole, 1});
    giving_pages_ -= whole.count;
    given_.notify_all();
  }
}

void PageFile::Punch(SlotRun run) const {
  // SAFETY: our own file, and slots that nobody has. Where it fails, space is wasted until they are used
  // again.
  (void)fallocate(fd_.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, At(run.first), At(run.count));
}

uint64_t PageFile::used_bytes() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return (slots_.used() - pending_pages_ - giving_pages_) * kPage;
}

}  // namespace moult::host
