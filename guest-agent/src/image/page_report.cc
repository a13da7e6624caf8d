// SPDX-License-Identifier: Apache-2.0
#include "image/page_report.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>

#include "moult/base/page.h"
#include "proc/pagemap.h"

namespace moult::engine {
namespace {

constexpr size_t kEntries = 4096;  // read at once
// To read the entries of pages that are not wanted costs less than another system call.
constexpr uint64_t kMaxGap = 64 * kPage;

absl::StatusOr<uint64_t> FrameOf(uint64_t raw, uint64_t address) {
  const proc::PagemapEntry entry = proc::DecodePagemap(raw);
  if (entry.swapped) {
    return absl::FailedPreconditionError(
        absl::StrFormat("page %#x is in swap; turn swap off in the guest, or capture in copy mode", address));
  }
  if (!entry.present) return absl::UnavailableError(absl::StrFormat("page %#x has gone meanwhile", address));
  if (entry.pfn == 0)
    return absl::PermissionDeniedError("the kernel hides frame numbers; run with CAP_SYS_ADMIN");
  return entry.pfn * kPage;
}

class FrameWalker {
 public:
  static absl::StatusOr<FrameWalker> Open(pid_t pid) {
    const std::string path = absl::StrCat("/proc/", pid, "/pagemap");
    UniqueFd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC));
    if (!fd.valid()) return ErrnoStatus(absl::StrCat("open ", path));
    return FrameWalker(path, std::move(fd));
  }

  // Calls add(gpa) for each page, in order. The ranges are whole pages.
  template <typename Add>
  absl::Status Walk(absl::Span<const AddressRange> ranges, Add add) {
    for (size_t i = 0; i < ranges.size(); ++i) {
      for (uint64_t at = ranges[i].start; at < ranges[i].start + ranges[i].length; at += kPage) {
        if (at < have_.start || at - have_.start >= have_.length)
          MOULT_RETURN_IF_ERROR(Fill(at, ranges.subspan(i)));
        const uint64_t raw = entries_[(at - have_.start) / kPage];
        const auto frame = FrameOf(raw, at);
        if (!frame.ok()) return frame.status();
        add(*frame);
      }
    }
    return absl::OkStatus();
  }

 private:
  FrameWalker(std::string path, UniqueFd fd)
      : path_(std::move(path)), fd_(std::move(fd)), entries_(kEntries) {}

  // Reads the entries from `at` on, as far as the ranges, of which `at` is in the first, are close to each
  // other.
  absl::Status Fill(uint64_t at, absl::Span<const AddressRange> ranges) {
    constexpr uint64_t kMost = kEntries * kPage;
    uint64_t end = ranges[0].start + ranges[0].length;
    for (const AddressRange& next : ranges.subspan(1)) {
      if (end - at >= kMost || next.start < end || next.start - end > kMaxGap) break;
      end = next.start + next.length;
    }
    const size_t size = std::min(end - at, kMost) / kPage * sizeof(uint64_t);
    const ssize_t n =
        pread(fd_.get(), entries_.data(), size, static_cast<off_t>(at / kPage * sizeof(uint64_t)));
    if (n != static_cast<ssize_t>(size)) {
      return ErrnoStatus(n < 0 ? errno : EIO, absl::StrFormat("read %s at %#x", path_, at));
    }
    have_ = {at, size / sizeof(uint64_t) * kPage};
    return absl::OkStatus();
  }

  std::string path_;
  UniqueFd fd_;
  std::vector<uint64_t> entries_;
  AddressRange have_{};  // what `entries_` is of
};

void AppendPage(std::vector<GpaRun>& runs, uint64_t gpa) {
  if (!runs.empty() && runs.back().gpa + runs.back().length == gpa) {
    runs.back().length += kPage;
  } else {
    runs.push_back({gpa, kPage});
  }
}

}  // namespace

PageReport::~PageReport() {
  for (const auto& [address, length] : mapped_) munmap(address, length);
}

absl::Status PageReport::Take(pid_t pid, absl::Span<const AddressRange> ranges) {
  MOULT_ASSIGN_OR_RETURN(FrameWalker walker, FrameWalker::Open(pid));
  MOULT_RETURN_IF_ERROR(walker.Walk(ranges, [this](uint64_t gpa) { AppendPage(pages_, gpa); }));
  pieces_.push_back({pid, {ranges.begin(), ranges.end()}});
  for (const AddressRange& range : ranges) size_ += range.length;
  return absl::OkStatus();
}

absl::Status PageReport::StageRemote(const ptrace::Tracee& tracee, absl::Span<const AddressRange> ranges,
                                     bool /*forced*/, std::vector<image::PageRun>* runs) {
  uint64_t offset = size_;
  for (const AddressRange& range : ranges) {
    runs->emplace_back(range.start, range.length, offset);
    offset += range.length;
  }
  return Annotate(Take(tracee.pid(), ranges), absl::StrCat("process ", tracee.pid()));
}

absl::Status PageReport::StageFile(int fd, uint64_t size, std::vector<image::PageRun>* runs) {
  const uint64_t whole = (size + kPage - 1) & ~(kPage - 1);
  for (uint64_t at = 0; at < whole;) {
    off_t data = lseek(fd, static_cast<off_t>(at), SEEK_DATA);
    if (data < 0 && errno == ENXIO) break;  // only a hole is left
    off_t hole = data < 0 ? -1 : lseek(fd, data, SEEK_HOLE);
    if (data < 0 || hole < 0) {  // the file system cannot tell: all of it is data
      data = static_cast<off_t>(at);
      hole = static_cast<off_t>(whole);
    }
    const uint64_t start = static_cast<uint64_t>(data) & ~(kPage - 1);
    const uint64_t end = std::min((static_cast<uint64_t>(hole) + kPage - 1) & ~(kPage - 1), whole);
    if (end <= start) break;
    // Populated for reading: every page of it gets a frame, and this mapping shows which.
    void* view =
        mmap(nullptr, end - start, PROT_READ, MAP_SHARED | MAP_POPULATE, fd, static_cast<off_t>(start));
    if (view == MAP_FAILED) return ErrnoStatus("map unnamed content");
    mapped_.emplace_back(view, end - start);
    runs->emplace_back(start, end - start, size_);
    const AddressRange range{reinterpret_cast<uint64_t>(view), end - start};
    MOULT_RETURN_IF_ERROR(Take(getpid(), {&range, 1}));
    at = end;
  }
  return absl::OkStatus();
}

absl::Status PageReport::CheckUnmoved() const {
  std::vector<GpaRun> now;
  for (const Piece& piece : pieces_) {
    MOULT_ASSIGN_OR_RETURN(FrameWalker walker, FrameWalker::Open(piece.pid));
    MOULT_RETURN_IF_ERROR(walker.Walk(piece.ranges, [&now](uint64_t gpa) { AppendPage(now, gpa); }));
  }
  const bool same =
      std::equal(now.begin(), now.end(), pages_.begin(), pages_.end(),
                 [](const GpaRun& a, const GpaRun& b) { return a.gpa == b.gpa && a.length == b.length; });
  if (same) return absl::OkStatus();
  return absl::AbortedError("the kernel moved pages of it while they were read; try again");
}

}  // namespace moult::engine
