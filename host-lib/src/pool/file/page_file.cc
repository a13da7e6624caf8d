// SPDX-License-Identifier: Apache-2.0
#include "pool/file/page_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <utility>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "memory/guest_memory.h"
#include "moult/base/status.h"

namespace moult::host {
namespace {

constexpr uint64_t kPunchPages = 256;

uint64_t Sum(const std::byte* page) { return XXH3_64bits(page, kPage); }

off_t At(uint64_t slot) { return static_cast<off_t>(slot * kPage); }

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
    : name_(std::move(name)), fd_(std::move(fd)), limit_(limit), slots_(limit / kPage) {}

absl::StatusOr<std::unique_ptr<PageFile>> PageFile::Create(const std::string& folder, uint64_t limit) {
  const std::string name = absl::StrCat("file:", folder);
  limit = std::min<uint64_t>(limit, INT64_MAX) / kPage * kPage;
  if (limit == 0)
    return absl::InvalidArgumentError(absl::StrCat("pool ", name, ": limit of less than a page"));
  UniqueFd fd(open(folder.c_str(), O_TMPFILE | O_RDWR | O_CLOEXEC, 0600));
  if (!fd.valid() && (errno == EOPNOTSUPP || errno == EISDIR)) {
    return absl::UnimplementedError(
        absl::StrCat("pool ", name, ": no O_TMPFILE on this file system; use tmpfs, ext4, xfs or btrfs"));
  }
  if (!fd.valid()) return ErrnoStatus(absl::StrCat("pool ", name, ": open"));
  return std::unique_ptr<PageFile>(new PageFile(name, std::move(fd), limit));
}

absl::Status PageFile::Write(absl::Span<const std::byte> pages, absl::Span<PoolSlot> slots) {
  std::vector<uint64_t> sums(slots.size());
  for (size_t i = 0; i < slots.size(); ++i) sums[i] = Sum(pages.data() + i * kPage);
  std::vector<SlotRun> runs;
  Flush(slots.size());
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    runs = slots_.Take(slots.size());
    if (runs.empty() && !slots.empty()) {
      return absl::ResourceExhaustedError(absl::StrCat(
          "pool ", name_, " is full: ", slots.size() * kPage, " bytes do not fit, ", slots_.used() * kPage,
          " of ", limit_, " are in use; raise its limit, or end or recall functions"));
    }
    if (sums_.size() < slots_.top()) sums_.resize(slots_.top());
    size_t i = 0;
    for (const SlotRun& run : runs) {
      for (uint64_t slot = run.first; slot < run.first + run.count; ++slot, ++i) {
        slots[i] = PoolSlot(slot);
        sums_[slot] = sums[i];
      }
    }
  }
  const std::byte* from = pages.data();
  for (const SlotRun& run : runs) {
    const absl::Status status = WriteAll(fd_.get(), from, run.count * kPage, At(run.first));
    if (!status.ok()) {
      GiveBack(std::move(runs));
      return Annotate(status, absl::StrCat("pool ", name_));
    }
    from += run.count * kPage;
  }
  return absl::OkStatus();
}

absl::Status PageFile::Read(absl::Span<const PoolSlot> slots, absl::Span<std::byte> pages) {
  for (size_t i = 0; i < slots.size();) {
    size_t end = i + 1;
    const auto first = static_cast<uint64_t>(slots[i]);
    while (end < slots.size() && static_cast<uint64_t>(slots[end]) == first + (end - i)) ++end;
    const absl::Status status = ReadAll(fd_.get(), pages.data() + i * kPage, (end - i) * kPage, At(first));
    if (!status.ok()) return Annotate(status, absl::StrCat("pool ", name_, ": slot ", first));
    i = end;
  }
  std::vector<uint64_t> sums(slots.size());
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    for (size_t i = 0; i < slots.size(); ++i) sums[i] = sums_[static_cast<uint64_t>(slots[i])];
  }
  for (size_t i = 0; i < slots.size(); ++i) {
    if (Sum(pages.data() + i * kPage) != sums[i]) {
      return absl::DataLossError(absl::StrCat("pool ", name_, ": slot ", static_cast<uint64_t>(slots[i]),
                                              " does not match its checksum; the medium is damaged, or "
                                              "something else writes there"));
    }
  }
  return absl::OkStatus();
}

void PageFile::Free(absl::Span<const PoolSlot> slots) {
  std::vector<SlotRun> runs;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    for (const PoolSlot slot : slots) {
      const auto number = static_cast<uint64_t>(slot);
      if (!pending_.empty() && pending_.back().first + pending_.back().count == number) {
        ++pending_.back().count;
      } else {
        pending_.push_back({number, 1});
      }
    }
    pending_pages_ += slots.size();
    if (pending_pages_ < kPunchPages && pending_pages_ < slots_.used()) return;
    runs.swap(pending_);
    pending_pages_ = 0;
  }
  GiveBack(std::move(runs));
}

void PageFile::Flush(uint64_t wanted) {
  std::vector<SlotRun> runs;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (slots_.used() + wanted <= limit_ / kPage) return;
    runs.swap(pending_);
    pending_pages_ = 0;
  }
  GiveBack(std::move(runs));
}

void PageFile::GiveBack(std::vector<SlotRun> runs) {
  std::sort(runs.begin(), runs.end(), [](const SlotRun& a, const SlotRun& b) { return a.first < b.first; });
  SlotRun whole = {0, 0};
  for (const SlotRun& run : runs) {
    if (whole.count > 0 && whole.first + whole.count == run.first) {
      whole.count += run.count;
      continue;
    }
    Punch(whole);
    whole = run;
  }
  Punch(whole);
  const std::lock_guard<std::mutex> lock(mutex_);
  for (const SlotRun& run : runs) slots_.Give(run);
}

void PageFile::Punch(SlotRun run) const {
  if (run.count == 0) return;
  // SAFETY: our own file, and slots that nobody has. Where it fails, space is wasted until they are used
  // again.
  (void)fallocate(fd_.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, At(run.first), At(run.count));
}

uint64_t PageFile::used_bytes() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return (slots_.used() - pending_pages_) * kPage;
}

}  // namespace moult::host
