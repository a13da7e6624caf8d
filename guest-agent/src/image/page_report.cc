// SPDX-License-Identifier: Apache-2.0
#include "image/page_report.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>

#include "proc/pagemap.h"

namespace moult::engine {
namespace {

constexpr uint64_t kPage = 4096;
constexpr size_t kEntries = 4096;

class FrameWalker {
 public:
  static absl::StatusOr<FrameWalker> Open(pid_t pid) {
    const std::string path = absl::StrCat("/proc/", pid, "/pagemap");
    UniqueFd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC));
    if (!fd.valid()) return ErrnoStatus(absl::StrCat("open ", path));
    return FrameWalker(path, std::move(fd));
  }

  // Calls add(gpa, length) for runs of frames that follow each other.
  template <typename Add>
  absl::Status Walk(const AddressRange& range, Add add) {
    std::vector<uint64_t> raw(std::min<uint64_t>(kEntries, range.length / kPage));
    for (uint64_t done = 0; done < range.length;) {
      const size_t count = std::min<uint64_t>(raw.size(), (range.length - done) / kPage);
      const ssize_t n = pread(fd_.get(), raw.data(), count * sizeof(uint64_t),
                              static_cast<off_t>((range.start + done) / kPage * sizeof(uint64_t)));
      if (n != static_cast<ssize_t>(count * sizeof(uint64_t))) {
        return ErrnoStatus(n < 0 ? errno : EIO, absl::StrFormat("read %s at %#x", path_, range.start + done));
      }
      for (size_t i = 0; i < count; ++i) {
        const proc::PagemapEntry entry = proc::DecodePagemap(raw[i]);
        const uint64_t at = range.start + done + i * kPage;
        if (entry.swapped) {
          return absl::FailedPreconditionError(
              absl::StrFormat("page %#x is in swap; turn swap off in the guest, or capture in copy mode", at));
        }
        if (!entry.present) return absl::UnavailableError(absl::StrFormat("page %#x has gone meanwhile", at));
        if (entry.pfn == 0) {
          return absl::PermissionDeniedError("the kernel hides frame numbers; run with CAP_SYS_ADMIN");
        }
        add(entry.pfn * kPage, kPage);
      }
      done += count * kPage;
    }
    return absl::OkStatus();
  }

 private:
  FrameWalker(std::string path, UniqueFd fd) : path_(std::move(path)), fd_(std::move(fd)) {}
  std::string path_;
  UniqueFd fd_;
};

void AppendRun(std::vector<GpaRun>& runs, uint64_t gpa, uint64_t length) {
  if (!runs.empty() && runs.back().gpa + runs.back().length == gpa) {
    runs.back().length += length;
  } else {
    runs.push_back({gpa, length});
  }
}

}  // namespace

PageReport::~PageReport() {
  for (const auto& [address, length] : mapped_) munmap(address, length);
}

absl::Status PageReport::Take(pid_t pid, const AddressRange& range) {
  MOULT_ASSIGN_OR_RETURN(FrameWalker walker, FrameWalker::Open(pid));
  MOULT_RETURN_IF_ERROR(walker.Walk(range, [&](uint64_t gpa, uint64_t length) { AppendRun(pages_, gpa, length); }));
  pieces_.push_back({pid, range});
  size_ += range.length;
  return absl::OkStatus();
}

absl::Status PageReport::StageRemote(const ptrace::Tracee& tracee, absl::Span<const AddressRange> ranges,
                                     bool /*forced*/, std::vector<image::PageRun>* runs) {
  for (const AddressRange& range : ranges) {
    runs->emplace_back(range.start, range.length, size_);
    MOULT_RETURN_IF_ERROR(Annotate(Take(tracee.pid(), range), absl::StrCat("process ", tracee.pid())));
  }
  return absl::OkStatus();
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
    MOULT_RETURN_IF_ERROR(Take(getpid(), {reinterpret_cast<uint64_t>(view), end - start}));
    at = end;
  }
  return absl::OkStatus();
}

absl::Status PageReport::CheckUnmoved() const {
  std::vector<GpaRun> now;
  for (const Piece& piece : pieces_) {
    MOULT_ASSIGN_OR_RETURN(FrameWalker walker, FrameWalker::Open(piece.pid));
    MOULT_RETURN_IF_ERROR(
        walker.Walk(piece.range, [&](uint64_t gpa, uint64_t length) { AppendRun(now, gpa, length); }));
  }
  const bool same = std::equal(now.begin(), now.end(), pages_.begin(), pages_.end(), [](const GpaRun& a, const GpaRun& b) {
    return a.gpa == b.gpa && a.length == b.length;
  });
  if (same) return absl::OkStatus();
  return absl::AbortedError("the kernel moved pages of it while they were read; try again");
}

}  // namespace moult::engine
