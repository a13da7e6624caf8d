// SPDX-License-Identifier: Apache-2.0
#include "resource/memory/capture.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>

#include "absl/strings/match.h"
#include "absl/strings/strip.h"
#include "moult/base/page.h"
#include "proc/read.h"
#include "proc/values.h"
#include "resource/memory/advice.h"
#include "resource/memory/page_scan.h"

namespace moult::engine {
namespace {

constexpr uint64_t kHoleMargin = 16u << 20;

std::string Name(const proc::SmapsEntry& entry) {
  return absl::StrFormat("mapping %#x-%#x%s%s", entry.start, entry.end, entry.path.empty() ? "" : " ",
                         entry.path);
}

absl::Status CheckSupported(const proc::SmapsEntry& entry) {
  const std::string name = Name(entry);
  if (entry.Has(proc::kVmIo) || entry.Has(proc::kVmPfnMap)) {
    return Refuse(absl::StrCat(name, " is device memory"), "close the device before the dump");
  }
  if (entry.Has(proc::kVmUffdMissing) || entry.Has(proc::kVmUffdWp) || entry.Has(proc::kVmUffdMinor)) {
    return Refuse(absl::StrCat(name, " is registered with userfaultfd"), "unregister it before the dump");
  }
  if (entry.Has(proc::kVmShadowStack))
    return Refuse(absl::StrCat(name, " is a shadow stack"), "start the program without it (GLIBC_TUNABLES)");
  if (entry.Has(proc::kVmSealed))
    return Refuse(absl::StrCat(name, " is sealed with mseal"), "start the program without mseal");
  if (entry.protection_key != 0)
    return Refuse(absl::StrCat(name, " has a protection key"), "free the key before the dump");
  if (absl::StartsWith(entry.path, "/SYSV"))
    return Refuse(absl::StrCat(name, " is System V shared memory"), "use memfd or POSIX shared memory");
  if (absl::StartsWith(entry.path, "/[aio]"))
    return Refuse(absl::StrCat(name, " is an AIO ring"), "destroy the io_setup context before the dump");
  if (absl::StartsWith(entry.path, "anon_inode:")) {
    return Refuse(absl::StrCat(name, " belongs to a kernel object (io_uring, perf, bpf or alike)"),
                  "close it before the dump");
  }
  if (entry.Has(proc::kVmHugeTlb) && (entry.shared || !absl::StartsWith(entry.path, "/anon_hugepage"))) {
    return Refuse(absl::StrCat(name, " is shared or file-backed hugetlb memory"),
                  "use private MAP_HUGETLB or transparent huge pages");
  }
  return absl::OkStatus();
}

// Opens the file behind a mapping itself, whatever its name leads to by now.
absl::StatusOr<UniqueFd> OpenMapped(pid_t pid, const proc::SmapsEntry& entry, int flags) {
  const std::string link = absl::StrFormat("/proc/%d/map_files/%x-%x", pid, entry.start, entry.end);
  UniqueFd fd(open(link.c_str(), flags | O_CLOEXEC));
  if (!fd.valid()) return ErrnoStatus(absl::StrCat("open ", link, " (", entry.path, ")"));
  return fd;
}

// The file behind a mapping. A library has several mappings, one after the other: one look is enough.
class MappedFiles {
 public:
  explicit MappedFiles(pid_t pid) : pid_(pid) {}

  absl::StatusOr<struct stat> Stat(const proc::SmapsEntry& entry) {
    if (last_ != nullptr && last_->inode == entry.inode && last_->dev_major == entry.dev_major &&
        last_->dev_minor == entry.dev_minor && last_->path == entry.path) {
      return stat_;
    }
    const std::string link = absl::StrFormat("/proc/%d/map_files/%x-%x", pid_, entry.start, entry.end);
    if (stat(link.c_str(), &stat_) < 0)
      return ErrnoStatus(absl::StrCat("stat ", link, " (", entry.path, ")"));
    last_ = &entry;
    return stat_;
  }

 private:
  pid_t pid_;
  const proc::SmapsEntry* last_ = nullptr;
  struct stat stat_ {};
};

absl::Status CaptureBacking(CaptureContext& context, MappedFiles& mapped, const proc::SmapsEntry& entry,
                            image::VmaT& vma) {
  MOULT_ASSIGN_OR_RETURN(const struct stat st, mapped.Stat(entry));
  vma.offset = entry.offset;
  const bool unnamed = st.st_nlink == 0;
  if (!unnamed) {
    if (entry.deleted) {
      return Refuse(absl::StrCat(Name(entry), ": the name it was opened by is gone, others exist"),
                    "restart the process");
    }
    vma.kind = entry.shared ? image::VmaKind::SharedFile : image::VmaKind::PrivateFile;
    MOULT_ASSIGN_OR_RETURN(
        vma.file, context.files.Add(entry.path, st,
                                    S_ISREG(st.st_mode) ? image::FileContent::Exact : image::FileContent::Any,
                                    Name(entry)));
    // Memory that is shared through a file is meant to change under the process.
    if (entry.shared && entry.write) context.files.AllowChange(vma.file);
    return absl::OkStatus();
  }
  image::ObjectKind kind = image::ObjectKind::UnlinkedFile;
  std::string name = entry.path;
  if (absl::StartsWith(entry.path, "/memfd:")) {
    kind = image::ObjectKind::Memfd;
    name = std::string(absl::StripPrefix(entry.path, "/memfd:"));
  } else if (entry.path == "/dev/zero" || absl::StartsWith(entry.path, "[anon_shmem:")) {
    kind = image::ObjectKind::SharedAnon;
    name = "";
  }
  if (kind == image::ObjectKind::SharedAnon && absl::StartsWith(entry.path, "[anon_shmem:")) {
    vma.name = std::string(absl::StripSuffix(absl::StripPrefix(entry.path, "[anon_shmem:"), "]"));
  }
  MOULT_ASSIGN_OR_RETURN(UniqueFd fd, OpenMapped(context.pid(), entry, O_RDONLY));
  vma.kind = entry.shared ? image::VmaKind::SharedObject : image::VmaKind::PrivateObject;
  MOULT_ASSIGN_OR_RETURN(vma.object, context.objects.Add(fd.get(), kind, name, context.pages));
  return absl::OkStatus();
}

absl::Status CaptureVma(CaptureContext& context, MappedFiles& mapped, const proc::SmapsEntry& entry,
                        image::VmaT& vma) {
  vma.start = entry.start;
  vma.end = entry.end;
  vma.prot = (entry.read ? PROT_READ : 0u) | (entry.write ? PROT_WRITE : 0u) | (entry.exec ? PROT_EXEC : 0u);
  if (entry.path == "[vdso]") {
    vma.kind = image::VmaKind::Vdso;
    return absl::OkStatus();
  }
  if (entry.path == "[vvar]" || entry.path == "[vvar_vclock]") {
    vma.kind = entry.path == "[vvar]" ? image::VmaKind::Vvar : image::VmaKind::VvarVclock;
    return absl::OkStatus();
  }
  MOULT_RETURN_IF_ERROR(CheckSupported(entry));
  vma.grows_down = entry.Has(proc::kVmGrowsDown);
  vma.noreserve = entry.Has(proc::kVmNoReserve);
  vma.accounted = entry.Has(proc::kVmAccount);
  vma.huge_tlb = entry.Has(proc::kVmHugeTlb);
  if (vma.huge_tlb) vma.huge_page_size = entry.kernel_page_size;
  if (entry.Has(proc::kVmLocked)) {
    // Before 6.12 the kernel does not show lock-on-fault; what is not wholly resident must have it.
    const bool on_fault = entry.Has(proc::kVmLockOnFault) || entry.rss < entry.end - entry.start;
    vma.locked = on_fault ? 2 : 1;
  }
  vma.may_write = entry.Has(proc::kVmMayWrite);
  vma.droppable = entry.Has(proc::kVmDroppable);
  vma.advice = AdviceOf(entry);
  if (absl::StartsWith(entry.path, "[anon:")) {
    vma.name = std::string(absl::StripSuffix(absl::StripPrefix(entry.path, "[anon:"), "]"));
  }
  if (entry.inode != 0 && !vma.huge_tlb) MOULT_RETURN_IF_ERROR(CaptureBacking(context, mapped, entry, vma));
  return absl::OkStatus();
}

// Memory that the kernel may empty at any time, or empties in a child, comes back empty.
bool HasContentToKeep(const proc::SmapsEntry& entry) {
  return !entry.shared && !entry.Has(proc::kVmWipeOnFork) && !entry.Has(proc::kVmDroppable);
}

absl::Status CaptureGuards(const CaptureContext& context, const std::vector<proc::SmapsEntry>& layout,
                           image::MemoryMapT& memory) {
  MOULT_ASSIGN_OR_RETURN(const PageScan scan, PageScan::Open(context.pid()));
  MOULT_ASSIGN_OR_RETURN(const auto guards, scan.Guards(layout));
  auto vma = memory.vmas.begin();
  for (const AddressRange& guard : guards) {
    while ((*vma)->end <= guard.start) ++vma;
    (*vma)->guards.emplace_back(guard.start, guard.length, 0);
  }
  return absl::OkStatus();
}

absl::Status CaptureExe(CaptureContext& context, image::MemoryMapT& memory) {
  const std::string link = context.ProcPath("exe");
  struct stat st {};
  MOULT_ASSIGN_OR_RETURN(const std::string path, proc::ReadLink(link));
  if (stat(link.c_str(), &st) < 0) return ErrnoStatus(absl::StrCat("stat ", link));
  if (st.st_nlink == 0)
    return Refuse(absl::StrCat("its program file ", path, " was removed"), "restart the process");
  MOULT_ASSIGN_OR_RETURN(memory.exe, context.files.Add(path, st, image::FileContent::Exact, "program"));
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::vector<proc::SmapsEntry>> ReadLayout(pid_t pid) {
  MOULT_ASSIGN_OR_RETURN(const std::string text, proc::ReadFile(absl::StrCat("/proc/", pid, "/smaps")));
  MOULT_ASSIGN_OR_RETURN(auto layout, proc::ParseSmaps(text));
  std::erase_if(layout, [](const proc::SmapsEntry& entry) { return entry.start >= kUserTop; });
  return layout;
}

absl::StatusOr<ptrace::RemotePtr> FindHole(const std::vector<proc::SmapsEntry>& layout, uint64_t size) {
  // From the top down: the bottom is where brk grows.
  uint64_t top = kUserTop - kHoleMargin;
  for (auto it = layout.rbegin(); it != layout.rend(); ++it) {
    if (it->end + size + 2 * kHoleMargin <= top) return ptrace::RemotePtr(it->end + kHoleMargin);
    top = std::min(top, it->start);
  }
  if (top > size + 3 * kHoleMargin) return ptrace::RemotePtr((top - size - kHoleMargin) & ~uint64_t{4095});
  return absl::ResourceExhaustedError("no free address range in the process");
}

// Pages of all mappings at once: one walk of the page tables, few copies.
absl::Status CapturePages(CaptureContext& context, const std::vector<proc::SmapsEntry>& layout) {
  image::MemoryMapT& memory = *context.process.memory;
  MOULT_ASSIGN_OR_RETURN(const PageScan scan, PageScan::Open(context.pid()));
  MOULT_ASSIGN_OR_RETURN(const auto ranges, scan.Private(layout));
  std::vector<AddressRange> readable;
  std::vector<AddressRange> forced;
  auto entry = layout.begin();
  for (const AddressRange& range : ranges) {
    while (entry->end <= range.start) ++entry;
    if (HasContentToKeep(*entry)) (entry->read ? readable : forced).push_back(range);
  }
  MOULT_RETURN_IF_ERROR(context.pages.StageRemote(context.tracee, readable, /*forced=*/false, &memory.runs));
  return context.pages.StageRemote(context.tracee, forced, /*forced=*/true, &memory.runs);
}

absl::Status CaptureMemory(CaptureContext& context, const std::vector<proc::SmapsEntry>& layout) {
  image::MemoryMapT& memory = *context.process.memory;
  MappedFiles mapped(context.pid());
  memory.vmas.reserve(layout.size());
  for (const proc::SmapsEntry& entry : layout) {
    auto vma = std::make_unique<image::VmaT>();
    MOULT_RETURN_IF_ERROR(CaptureVma(context, mapped, entry, *vma));
    memory.vmas.push_back(std::move(vma));
  }
  MOULT_RETURN_IF_ERROR(CaptureGuards(context, layout, memory));
  const proc::Stat& stat = context.stat;
  memory.start_code = stat.start_code;
  memory.end_code = stat.end_code;
  memory.start_data = stat.start_data;
  memory.end_data = stat.end_data;
  memory.start_brk = stat.start_brk;
  memory.start_stack = stat.start_stack;
  memory.arg_start = stat.arg_start;
  memory.arg_end = stat.arg_end;
  memory.env_start = stat.env_start;
  memory.env_end = stat.env_end;
  MOULT_ASSIGN_OR_RETURN(const std::string auxv, proc::ReadFile(context.ProcPath("auxv")));
  memory.auxv.assign(auxv.begin(), auxv.end());
  MOULT_ASSIGN_OR_RETURN(const std::string filter, proc::ReadFile(context.ProcPath("coredump_filter")));
  MOULT_ASSIGN_OR_RETURN(memory.coredump_filter, proc::ParseHexFile("coredump_filter", filter));
  memory.thp_disable = context.status.thp_enabled.has_value() && !*context.status.thp_enabled;
  return CaptureExe(context, memory);
}

}  // namespace moult::engine
