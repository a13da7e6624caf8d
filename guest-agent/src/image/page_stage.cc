// SPDX-License-Identifier: Apache-2.0
#include "image/page_stage.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>

#include "moult/base/page.h"
#include "moult/base/quiet_thread.h"
#include "proc/read.h"

namespace moult::engine {
namespace {

constexpr size_t kHugePage = 2u << 20;
constexpr size_t kMaxIov = 1024;
constexpr size_t kSlack = 8u << 20;         // a process still grows between the estimate and the stop
constexpr size_t kMaxAppend = 64;           // runs per write
constexpr uint64_t kMostAtOnce = 1u << 30;  // below the kernel's limit for one read
constexpr uint64_t kCopySize = 512u << 10;  // one share of a copy that several threads do
constexpr size_t kCopiesForHelper = 3;      // under that, a second thread costs more than it brings

uint64_t AvailableMemory() {
  auto text = proc::ReadFile("/proc/meminfo");
  const size_t at = text.ok() ? text->find("MemAvailable:") : std::string::npos;
  return at == std::string::npos ? 0 : std::strtoull(text->c_str() + at + 13, nullptr, 10) * 1024;
}

absl::Status CopyFromProcess(pid_t pid, std::byte* to, uint64_t length, absl::Span<const iovec> from) {
  iovec local{to, length};
  const ssize_t n = process_vm_readv(pid, &local, 1, from.data(), from.size(), 0);
  if (n >= 0 && static_cast<uint64_t>(n) == length) return absl::OkStatus();
  if (n < 0 && errno == ESRCH)
    return absl::UnavailableError(absl::StrCat("process ", pid, " ended meanwhile"));
  return ErrnoStatus(n < 0 ? errno : EFAULT,
                     absl::StrFormat("process %d: read pages at %p..%#x", pid, from.front().iov_base,
                                     reinterpret_cast<uint64_t>(from.back().iov_base) + from.back().iov_len));
}

bool IsZeroPage(const std::byte* page) {
  // The first word decides for nearly every page that is not zero.
  uint64_t first;
  std::memcpy(&first, page, sizeof(first));
  return first == 0 && std::memcmp(page, page + sizeof(first), kPage - sizeof(first)) == 0;
}

}  // namespace

absl::StatusOr<std::unique_ptr<PageStage>> PageStage::Create(image::TemplateWriter& writer,
                                                             uint64_t expected) {
  // Half of what can be had without swapping: the process that is captured must not pay for it.
  const uint64_t most = std::max<uint64_t>(AvailableMemory() / 2, 64u << 20);
  const size_t capacity = AlignUp(std::min(expected + kSlack, most), kHugePage);
  void* memory = mmap(nullptr, capacity + kHugePage, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED)
    return ErrnoStatus(absl::StrCat("allocate ", capacity, " bytes to stage pages"));
  const uint64_t base = AlignUp(reinterpret_cast<uint64_t>(memory), kHugePage);
  auto* buffer = static_cast<std::byte*>(memory) + (base - reinterpret_cast<uint64_t>(memory));
  munmap(memory, base - reinterpret_cast<uint64_t>(memory));
  // Faults taken now are not taken while the process is stopped.
  madvise(buffer, capacity, MADV_HUGEPAGE);
  constexpr int kMadvPopulateWrite = 23;  // MADV_POPULATE_WRITE, Linux 5.14
  madvise(buffer, AlignUp(std::min<uint64_t>(expected, capacity), kPage), kMadvPopulateWrite);
  return std::unique_ptr<PageStage>(new PageStage(writer, buffer, capacity));
}

PageStage::~PageStage() {
  StopCopies();
  explicit_bzero(buffer_, std::max(used_, most_used_));  // It is a process's memory.
  munmap(buffer_, capacity_);
}

absl::StatusOr<size_t> PageStage::Room(uint64_t length) {
  if (used_ + kPage > capacity_) {
    MOULT_RETURN_IF_ERROR(Finish());
  }
  return static_cast<size_t>(std::min<uint64_t>({length, capacity_ - used_, kMostAtOnce}));
}

absl::Status PageStage::StageForced(const ptrace::Tracee& tracee, absl::Span<const AddressRange> ranges,
                                    std::vector<image::PageRun>* runs) {
  if (ranges.empty()) return absl::OkStatus();
  const std::string path = absl::StrCat("/proc/", tracee.pid(), "/mem");
  const UniqueFd mem(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!mem.valid()) return ErrnoStatus(absl::StrCat("open ", path));
  for (const AddressRange& range : ranges) {
    for (uint64_t done = 0; done < range.length;) {
      MOULT_ASSIGN_OR_RETURN(const size_t room, Room(range.length - done));
      const ssize_t n = pread(mem.get(), buffer_ + used_, room, static_cast<off_t>(range.start + done));
      if (n < 0 || static_cast<size_t>(n) != room) {
        return ErrnoStatus(n < 0 ? errno : EIO, absl::StrFormat("read %s at %#x", path, range.start + done));
      }
      pieces_.push_back({range.start + done, room, runs});
      used_ += room;
      staged_ += room;
      done += room;
    }
  }
  return absl::OkStatus();
}

void PageStage::RunCopies() {
  for (size_t i = next_copy_++; i < copies_.size(); i = next_copy_++) {
    const Copy& copy = copies_[i];
    const absl::Status status = CopyFromProcess(copy.pid, copy.to, copy.length, copy.from);
    if (status.ok()) continue;
    next_copy_ = copies_.size();
    const std::lock_guard<std::mutex> lock(mutex_);
    copy_status_.Update(status);
  }
}

void PageStage::StartCopies() {
  if (copies_.size() >= kCopiesForHelper && std::thread::hardware_concurrency() > 1) {
    helper_ = StartQuietThread([this] { RunCopies(); });
  }
}

absl::Status PageStage::AwaitCopies() {
  RunCopies();
  if (helper_.joinable()) helper_.join();
  copies_.clear();
  next_copy_ = 0;
  return copy_status_;
}

void PageStage::StopCopies() {
  next_copy_ = copies_.size();
  if (helper_.joinable()) helper_.join();
}

absl::Status PageStage::QueueCopies(const ptrace::Tracee& tracee, absl::Span<const AddressRange> ranges,
                                    std::vector<image::PageRun>* runs) {
  Copy copy{};
  const auto queue = [&] {
    if (copy.length != 0) copies_.push_back(std::move(copy));
    copy = {tracee.pid(), buffer_ + used_, 0, {}};
  };
  queue();
  for (const AddressRange& range : ranges) {
    for (uint64_t done = 0; done < range.length;) {
      if (used_ + kPage > capacity_) {
        queue();
        StartCopies();
        MOULT_RETURN_IF_ERROR(Finish());
        queue();
      }
      if (copy.from.size() == kMaxIov || copy.length >= kCopySize) queue();
      const uint64_t length =
          std::min<uint64_t>({range.length - done, capacity_ - used_, kCopySize - copy.length});
      copy.from.push_back({reinterpret_cast<void*>(range.start + done), length});
      copy.length += length;
      pieces_.push_back({range.start + done, length, runs});
      used_ += length;
      staged_ += length;
      done += length;
    }
  }
  queue();
  return absl::OkStatus();
}

absl::Status PageStage::StageRemote(const ptrace::Tracee& tracee, absl::Span<const AddressRange> ranges,
                                    bool forced, std::vector<image::PageRun>* runs) {
  if (forced) return StageForced(tracee, ranges, runs);
  MOULT_RETURN_IF_ERROR(AwaitCopies());
  MOULT_RETURN_IF_ERROR(QueueCopies(tracee, ranges, runs));
  StartCopies();
  return absl::OkStatus();
}

absl::Status PageStage::StageFile(int fd, uint64_t size, std::vector<image::PageRun>* runs) {
  for (off_t at = 0; static_cast<uint64_t>(at) < size;) {
    off_t data = lseek(fd, at, SEEK_DATA);
    if (data < 0 && errno == ENXIO) break;  // only a hole is left
    off_t hole = data < 0 ? -1 : lseek(fd, data, SEEK_HOLE);
    if (data < 0 || hole < 0) {  // the file system cannot tell: all of it is data
      data = at;
      hole = static_cast<off_t>(size);
    }
    data &= ~static_cast<off_t>(kPage - 1);
    const uint64_t end =
        std::min<uint64_t>(AlignUp(static_cast<uint64_t>(hole), kPage), AlignUp(size, kPage));
    for (uint64_t offset = static_cast<uint64_t>(data); offset < end;) {
      MOULT_ASSIGN_OR_RETURN(const size_t room, Room(end - offset));
      std::byte* to = buffer_ + used_;
      for (size_t done = 0; done < room;) {
        const ssize_t n = pread(fd, to + done, room - done, static_cast<off_t>(offset + done));
        if (n < 0) return ErrnoStatus(absl::StrCat("read unnamed content at offset ", offset + done));
        if (n == 0) {
          std::memset(to + done, 0, room - done);
          break;
        }
        done += static_cast<size_t>(n);
      }
      pieces_.push_back({offset, room, runs});
      used_ += room;
      staged_ += room;
      offset += room;
    }
    at = hole;
  }
  return absl::OkStatus();
}

absl::Status PageStage::WritePiece(const Piece& piece, const std::byte* bytes) {
  // Runs of pages that are not zero, gathered into as few writes as there are gaps.
  std::vector<iovec> parts;
  std::vector<image::PageRun> found;
  auto flush = [&]() -> absl::Status {
    if (parts.empty()) return absl::OkStatus();
    MOULT_ASSIGN_OR_RETURN(uint64_t offset, writer_.AppendPages(parts));
    for (const image::PageRun& run : found) {
      piece.runs->emplace_back(run.start(), run.length(), offset);
      offset += run.length();
    }
    parts.clear();
    found.clear();
    return absl::OkStatus();
  };
  for (uint64_t at = 0; at < piece.length;) {
    if (IsZeroPage(bytes + at)) {
      at += kPage;
      continue;
    }
    uint64_t end = at + kPage;
    while (end < piece.length && !IsZeroPage(bytes + end)) end += kPage;
    parts.push_back({const_cast<std::byte*>(bytes + at), end - at});
    found.emplace_back(piece.start + at, end - at, 0);
    if (parts.size() == kMaxAppend) MOULT_RETURN_IF_ERROR(flush());
    at = end;
  }
  return flush();
}

absl::Status PageStage::Finish() {
  MOULT_RETURN_IF_ERROR(AwaitCopies());
  size_t at = 0;
  for (const Piece& piece : pieces_) {
    MOULT_RETURN_IF_ERROR(WritePiece(piece, buffer_ + at));
    at += piece.length;
  }
  pieces_.clear();
  most_used_ = std::max(most_used_, used_);
  used_ = 0;
  return absl::OkStatus();
}

}  // namespace moult::engine
