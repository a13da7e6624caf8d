// SPDX-License-Identifier: Apache-2.0
#include "ledger/exclusive.h"

#include <fcntl.h>
#include <linux/kernel-page-flags.h>
#include <linux/magic.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <filesystem>
#include <map>
#include <memory>
#include <set>

#include "ledger/frame_table.h"
#include "ledger/present_pages.h"
#include "moult/base/page.h"
#include "moult/base/unique_fd.h"
#include "proc/maps.h"
#include "proc/read.h"

namespace moult::agent {
namespace {

bool InRam(uint64_t frame, const std::vector<RamRange>& ram) {
  const uint64_t at = frame * kPage;
  return std::any_of(ram.begin(), ram.end(),
                     [at](const RamRange& range) { return at >= range.start && at + kPage <= range.end; });
}

// Pages of shmem that are not the function's to give, whatever else they look like.
constexpr uint64_t kNever = Bit(KPF_NOPAGE) | Bit(KPF_HWPOISON) | Bit(KPF_KSM) | Bit(KPF_ZERO_PAGE) |
                            Bit(KPF_HUGE) | Bit(KPF_SLAB) | Bit(KPF_BUDDY);

// Finds shmem pages; or fills these and anonymous ones with zeros.
class Finder {
 public:
  explicit Finder(bool wipe) : wipe_(wipe) {}

  // Forgets what was found, not where to look.
  void Reset() {
    frames_.clear();
    shmem_.clear();
  }

  absl::Status Open() {
    if (!ram_.empty()) return absl::OkStatus();
    ram_ = ReadSystemRam();
    if (ram_.empty())
      return absl::FailedPreconditionError("/proc/iomem shows no RAM; run as root (CAP_SYS_ADMIN)");
    ksm_shares_ = KernelMergesPages();
    flags_.Reset(open("/proc/kpageflags", O_RDONLY | O_CLOEXEC));
    counts_.Reset(open("/proc/kpagecount", O_RDONLY | O_CLOEXEC));
    if (!flags_.valid() || !counts_.valid())
      return ErrnoStatus("open /proc/kpageflags and kpagecount (CONFIG_PROC_PAGE_MONITOR)");
    return absl::OkStatus();
  }

  // Shmem pages that are mapped: of memfds and shared memory that only this sandbox has. Anonymous ones when
  // wiping.
  absl::Status AddProcess(const std::string& folder) {
    auto known = spans_.find(folder);
    if (known == spans_.end()) {
      MOULT_ASSIGN_OR_RETURN(const auto parts, ReadMappedParts(folder, /*ask=*/wipe_));
      known = spans_.emplace(folder, Spans(parts)).first;
    }
    MOULT_ASSIGN_OR_RETURN(PresentPages pages, PresentPages::Open(folder));
    if (wipe_) {
      memory_.Reset(open((folder + "/mem").c_str(), O_RDWR | O_CLOEXEC));
      if (!memory_.valid()) return ErrnoStatus(absl::StrCat("open ", folder, "/mem"));
    }
    for (const Span& span : known->second) {
      if (!wipe_ && span.files == Files::kNone) continue;
      MOULT_RETURN_IF_ERROR(AddRange(pages, span.start, span.end, span.large, span.files));
    }
    return absl::OkStatus();
  }

  // Files of tmpfs that have no name any more (memfds among them), mapped or not.
  absl::Status AddOpenFiles(const std::string& process) {
    auto known = unnamed_.find(process);
    if (known == unnamed_.end()) {
      MOULT_ASSIGN_OR_RETURN(std::vector<int> fds, UnnamedFiles(process));
      known = unnamed_.emplace(process, std::move(fds)).first;
    }
    if (known->second.empty()) return absl::OkStatus();
    MOULT_ASSIGN_OR_RETURN(PresentPages own, PresentPages::Open("/proc/self"));
    for (const int fd : known->second) MOULT_RETURN_IF_ERROR(AddFile(own, absl::StrCat(process, "/fd/", fd)));
    return absl::OkStatus();
  }

  // Every page of every file in a tmpfs that nobody outside of the sandbox sees. They are mapped here to be
  // found.
  absl::Status AddTmpfs(const std::string& folder) {
    struct statfs fs {};
    if (statfs(folder.c_str(), &fs) < 0 || fs.f_type != TMPFS_MAGIC) return absl::OkStatus();
    MOULT_ASSIGN_OR_RETURN(PresentPages own, PresentPages::Open("/proc/self"));
    std::error_code error;
    using std::filesystem::recursive_directory_iterator;
    for (const auto& entry : recursive_directory_iterator(folder, error)) {
      std::error_code ignored;
      if (entry.is_symlink(ignored) || !entry.is_regular_file(ignored)) continue;
      MOULT_RETURN_IF_ERROR(AddFile(own, entry.path(), O_NOFOLLOW));
    }
    if (error) return absl::InternalError(absl::StrCat("list ", folder, ": ", error.message()));
    return absl::OkStatus();
  }

  // Shmem pages count when all who map them are of this sandbox.
  std::vector<FrameRun> Take() {
    for (const auto& [frame, mappings] : shmem_) {
      if (mappings.first >= mappings.second) frames_.push_back(frame);
    }
    return MergeFrames(std::move(frames_));
  }

 private:
  // What to make of pages that are a file's.
  enum class Files {
    kNone,   // not of interest: page cache of a file that others may have
    kShmem,  // shmem counts, when it is this sandbox's alone
    kOwn,    // shmem that is
  };

  // Pages of most files are not even looked up: there are many.
  static bool MayShowShmem(const proc::MapsEntry& entry) {
    return entry.shared || entry.path.starts_with("/memfd:") || entry.path.starts_with("/dev/zero");
  }

  // Mappings that are looked through with one system call.
  struct Span {
    uint64_t start;
    uint64_t end;
    Files files;
    bool large;
  };

  // Neighbours are put together: a system call takes longer than a look at a few pages that are not there.
  static std::vector<Span> Spans(const std::vector<MappedPart>& parts) {
    constexpr uint64_t kGap = 64 * kPage;
    std::vector<Span> spans;
    for (const auto& [entry, empty, large] : parts) {
      if (empty || entry.path == "[vsyscall]") continue;
      const Files files = MayShowShmem(entry) ? Files::kShmem : Files::kNone;
      if (!spans.empty() && spans.back().files == files && spans.back().large == large && entry.start - spans.back().end <= kGap) {
        spans.back().end = entry.end;
      } else {
        spans.push_back({entry.start, entry.end, files, large});
      }
    }
    return spans;
  }

  // Its descriptors of them.
  static absl::StatusOr<std::vector<int>> UnnamedFiles(const std::string& process) {
    const std::string folder = process + "/fd";
    MOULT_ASSIGN_OR_RETURN(const std::vector<int> fds, proc::ListNumeric(folder));
    const UniqueFd opened(open(folder.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));  // a shorter way to each
    if (!opened.valid()) return ErrnoStatus(absl::StrCat("open ", folder));
    std::vector<int> unnamed;
    for (const int fd : fds) {
      struct stat st {};
      struct statfs fs {};
      if (fstatat(opened.get(), absl::StrCat(fd).c_str(), &st, 0) < 0 || !S_ISREG(st.st_mode) || st.st_nlink != 0) continue;
      if (statfs(absl::StrCat(folder, "/", fd).c_str(), &fs) == 0 && fs.f_type == TMPFS_MAGIC) unnamed.push_back(fd);
    }
    return unnamed;
  }

  // A present page at an address.
  struct Candidate {
    uint64_t address;
    proc::PagemapEntry entry;
    bool operator<(const Candidate& other) const { return entry.pfn < other.entry.pfn; }
  };

  // Looks up frames, which rise: many with one system call where they lie close together.
  std::vector<Frame> Look(const std::vector<Candidate>& candidates) {
    constexpr uint64_t kGap = 256;
    constexpr uint64_t kSpan = 16384;
    std::vector<Frame> frames;
    frames.reserve(candidates.size());
    for (size_t i = 0; i < candidates.size();) {
      const uint64_t first = candidates[i].entry.pfn;
      size_t end = i + 1;
      while (end < candidates.size() && candidates[end].entry.pfn - candidates[end - 1].entry.pfn <= kGap &&
             candidates[end].entry.pfn - first < kSpan)
        ++end;
      const uint64_t span = candidates[end - 1].entry.pfn - first + 1;
      const size_t flags = ReadSpan(flags_.get(), first, span, span_flags_);
      const size_t counts = ReadSpan(counts_.get(), first, span, span_counts_);
      for (; i < end; ++i) {
        const uint64_t at = candidates[i].entry.pfn - first;
        // One that cannot be read has no struct page.
        if (at < std::min(flags, counts)) {
          frames.push_back({first + at, span_flags_[at], span_counts_[at]});
        } else {
          frames.push_back({first + at, Bit(KPF_NOPAGE), 0});
        }
      }
    }
    return frames;
  }

  // How many of `span` entries could be read.
  static size_t ReadSpan(int fd, uint64_t first, uint64_t span, std::vector<uint64_t>& to) {
    to.resize(span);
    const ssize_t n = pread(fd, to.data(), span * 8, static_cast<off_t>(first * 8));
    return n < 0 ? 0 : static_cast<size_t>(n) / 8;
  }

  absl::Status AddRange(PresentPages& pages, uint64_t start, uint64_t end, bool large, Files files) {
    return pages.Read(start, end, large, [&](uint64_t address, absl::Span<const uint64_t> entries) -> absl::Status {
      candidates_.clear();
      for (size_t i = 0; i < entries.size(); ++i) {
        const proc::PagemapEntry entry = proc::DecodePagemap(entries[i]);
        if (!entry.present || (entry.file_or_shared && files == Files::kNone)) continue;
        if (entry.pfn == 0)
          return absl::PermissionDeniedError("pagemap hides frame numbers; run with CAP_SYS_ADMIN");
        candidates_.push_back({address + i * kPage, entry});
      }
      return AddCandidates(files);
    });
  }

  absl::Status AddCandidates(Files files) {
    // Pagemap itself tells of an anonymous page that it is mapped once; for the rest frames are looked up.
    const bool look = !candidates_.empty() && (ksm_shares_ || files != Files::kNone);
    if (look) std::sort(candidates_.begin(), candidates_.end());
    const std::vector<Frame> frames = look ? Look(candidates_) : std::vector<Frame>();
    for (size_t i = 0; i < candidates_.size(); ++i) {
      const auto& [address, entry] = candidates_[i];
      if (IsExclusiveAnonymous(entry, ram_) && !(ksm_shares_ && (frames[i].flags & Bit(KPF_KSM)) != 0)) {
        frames_.push_back(entry.pfn);
        if (wipe_) MOULT_RETURN_IF_ERROR(Wipe(address));
      }
      if (!entry.file_or_shared || !IsShmem(frames[i], ram_)) continue;
      if (files == Files::kOwn) {
        frames_.push_back(entry.pfn);
      } else {
        auto& mappings = shmem_[entry.pfn];
        ++mappings.first;
        mappings.second = frames[i].mapped;
      }
    }
    return absl::OkStatus();
  }

  absl::Status Wipe(uint64_t address) {
    static constexpr std::array<char, kPage> kZeros{};
    if (pwrite(memory_.get(), kZeros.data(), kZeros.size(), static_cast<off_t>(address)) == kPage)
      return absl::OkStatus();
    return ErrnoStatus(absl::StrFormat("fill the page at %#x with zeros", address));
  }

  absl::Status AddFile(PresentPages& own, const std::string& path, int flags = 0) {
    const int access = wipe_ ? O_RDWR : O_RDONLY;
    const UniqueFd fd(open(path.c_str(), access | flags | O_CLOEXEC | O_NONBLOCK));
    struct stat st {};
    if (!fd.valid() || fstat(fd.get(), &st) < 0) return ErrnoStatus(absl::StrCat("open ", path));
    // Data only: reading a hole would make pages.
    for (off_t at = 0; (at = lseek(fd.get(), at, SEEK_DATA)) >= 0;) {
      const off_t end = lseek(fd.get(), at, SEEK_HOLE);
      if (end < 0) return ErrnoStatus(absl::StrCat("seek in ", path));
      const off_t start = at & ~static_cast<off_t>(kPage - 1);
      const auto length = (static_cast<uint64_t>(end - start) + kPage - 1) & ~(kPage - 1);
      void* memory = mmap(nullptr, length, wipe_ ? PROT_READ | PROT_WRITE : PROT_READ,
                          MAP_SHARED | MAP_POPULATE, fd.get(), start);
      if (memory == MAP_FAILED) return ErrnoStatus(absl::StrCat("map ", path));
      const auto address = reinterpret_cast<uint64_t>(memory);
      const absl::Status status = AddRange(own, address, address + length, /*large=*/false, Files::kOwn);
      if (wipe_) std::memset(memory, 0, length);
      munmap(memory, length);
      MOULT_RETURN_IF_ERROR(status);
      at = end;
    }
    return absl::OkStatus();
  }

  const bool wipe_;
  UniqueFd memory_;  // of the process at hand, when wiping
  // 6.12 shows every anonymous page as one of KSM, so the flag is believed only where there can be some.
  bool ksm_shares_ = false;
  // By the process's folder: all stand still.
  std::map<std::string, std::vector<Span>> spans_;
  std::map<std::string, std::vector<int>> unnamed_;
  std::vector<RamRange> ram_;
  UniqueFd flags_;
  UniqueFd counts_;
  std::vector<Candidate> candidates_;  // these three: of the piece at hand
  std::vector<uint64_t> span_flags_;
  std::vector<uint64_t> span_counts_;
  std::vector<uint64_t> frames_;
  std::map<uint64_t, std::pair<uint64_t, uint64_t>> shmem_;  // frame: seen here, mapped at all
};

}  // namespace

bool IsExclusiveAnonymous(const proc::PagemapEntry& entry, const std::vector<RamRange>& ram) {
  return entry.present && !entry.file_or_shared && entry.exclusive && InRam(entry.pfn, ram);
}

bool IsShmem(const Frame& frame, const std::vector<RamRange>& ram) {
  // Pages of tmpfs, and of nothing else that is mapped, are backed by swap without being anonymous.
  constexpr uint64_t kShmem = Bit(KPF_SWAPBACKED);
  return (frame.flags & kShmem) != 0 && (frame.flags & (Bit(KPF_ANON) | kNever)) == 0 &&
         InRam(frame.number, ram);
}

std::vector<FrameRun> MergeFrames(std::vector<uint64_t> frames) {
  std::vector<FrameRun> runs;
  runs.reserve(frames.size());
  for (const uint64_t frame : frames) runs.push_back({frame * kPage, kPage});
  return MergeRuns(std::move(runs));
}

std::vector<FrameRun> MergeRuns(std::vector<FrameRun> runs) {
  std::sort(runs.begin(), runs.end(), [](const FrameRun& a, const FrameRun& b) { return a.gpa < b.gpa; });
  std::vector<FrameRun> merged;
  for (const FrameRun& run : runs) {
    if (!merged.empty() && run.gpa <= merged.back().gpa + merged.back().length) {
      const uint64_t end = std::max(merged.back().gpa + merged.back().length, run.gpa + run.length);
      merged.back().length = end - merged.back().gpa;
    } else {
      merged.push_back(run);
    }
  }
  return merged;
}

namespace {

absl::StatusOr<std::vector<FrameRun>> Find(pid_t init_pid, Finder& finder) {
  MOULT_RETURN_IF_ERROR(finder.Open());
  finder.Reset();
  const std::string root = absl::StrCat("/proc/", init_pid, "/root");
  // Its own /proc lists the sandbox's processes and no others. The init itself is ours.
  MOULT_ASSIGN_OR_RETURN(const std::vector<int> pids, proc::ListNumeric(root + "/proc"));
  for (const int pid : pids) {
    if (pid == 1) continue;
    const std::string process = absl::StrCat(root, "/proc/", pid);
    absl::Status status = finder.AddProcess(process);
    if (status.ok()) status = finder.AddOpenFiles(process);
    // A zombie has no memory; it may also have been reaped since.
    if (!status.ok() && !absl::IsNotFound(status)) return status;
  }
  for (const char* folder : {"/tmp", "/dev/shm"}) MOULT_RETURN_IF_ERROR(finder.AddTmpfs(root + folder));
  return finder.Take();
}

}  // namespace

std::function<absl::StatusOr<std::vector<FrameRun>>()> ExclusiveShmemFinder(pid_t init_pid) {
  return [init_pid, finder = std::make_shared<Finder>(/*wipe=*/false)] { return Find(init_pid, *finder); };
}

absl::Status WipeExclusive(pid_t init_pid) {
  Finder finder(/*wipe=*/true);
  return Find(init_pid, finder).status();
}

}  // namespace moult::agent
