// SPDX-License-Identifier: Apache-2.0
#include "resource/memory/restore.h"

#include <fcntl.h>
#include <linux/moult.h>
#include <linux/prctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>

#include <algorithm>
#include <ctime>

#include "moult/base/page.h"
#include "parasite/program.h"

namespace moult::engine {
namespace {

using ptrace::Arg;

constexpr uint64_t kMargin = 16u << 20;
constexpr uint64_t kLowest = 1u << 30;
constexpr size_t kMaxIov = 1024;
constexpr uint64_t kMaxRead = 1u << 30;  // below the kernel's limit for one read
constexpr int kMadvGuardInstall = 102;   // MADV_GUARD_INSTALL, Linux 6.13
constexpr int kMapDroppable = 0x08;      // MAP_DROPPABLE, Linux 6.11: a mapping type of its own

bool IsKernelMapping(image::VmaKind kind) {
  return kind == image::VmaKind::Vdso || kind == image::VmaKind::Vvar || kind == image::VmaKind::VvarVclock;
}

const char* KernelName(image::VmaKind kind) {
  if (kind == image::VmaKind::Vdso) return "[vdso]";
  return kind == image::VmaKind::Vvar ? "[vvar]" : "[vvar_vclock]";
}

ptrace::CallName Name(std::string operation, const image::VmaT& vma) {
  return {std::move(operation), vma.start, vma.end};
}

struct Range {
  uint64_t start;
  uint64_t end;
};

// Template pages can be shown in anonymous memory, and in place of copies that were written to a private
// mapping of a regular file.
bool CanAttach(const image::ProcessImageT& image, const image::VmaT& vma, const FdNumbers& numbers) {
  if (!numbers.pages.attach || vma.huge_tlb || vma.droppable) return false;
  if (vma.kind == image::VmaKind::Anonymous) return true;
  return vma.kind == image::VmaKind::PrivateFile && S_ISREG(image.files[vma.file]->mode);
}

class MappingPlanner {
 public:
  MappingPlanner(const image::ProcessImageT& image, const FdNumbers& numbers, uint64_t view,
                 ptrace::ProgramBuilder& program)
      : image_(image),
        numbers_(numbers),
        view_(view),
        program_(program),
        memory_(*image.processes.front()->memory) {}

  FillTimes Plan() {
    size_t run = 0;
    // First all mappings, then all content: runs lie in `pages` in the order of addresses, so one read can
    // fill many mappings.
    for (const auto& vma : memory_.vmas) {
      if (IsKernelMapping(vma->kind)) continue;
      while (run < memory_.runs.size() && memory_.runs[run].start() < vma->start) ++run;
      const bool has_content = run < memory_.runs.size() && memory_.runs[run].start() < vma->end;
      Map(*vma, has_content);
    }
    times_.begin = AddTime();
    if (numbers_.pages.attach) {
      AttachOrCopy();
    } else {
      Fill();
    }
    times_.end = AddTime();
    for (const image::VmaT* vma : protect_later_) {
      program_.Call(Name("mprotect", *vma), SYS_mprotect, {vma->start, vma->end - vma->start, vma->prot});
    }
    for (const auto& vma : memory_.vmas) {
      if (!IsKernelMapping(vma->kind)) Finish(*vma);
    }
    return times_;
  }

 private:
  size_t AddTime() {
    const size_t data = program_.AddBuffer(sizeof(timespec));
    program_.Call("clock_gettime", SYS_clock_gettime, {CLOCK_MONOTONIC_RAW, Arg::Data(data)});
    return data;
  }

  static bool IsShared(const image::VmaT& vma) {
    return vma.kind == image::VmaKind::SharedFile || vma.kind == image::VmaKind::SharedObject;
  }

  Arg Fd(const image::VmaT& vma) const {
    if (vma.file != 0xffffffffu)
      return numbers_.files.at({vma.file, vma.kind == image::VmaKind::SharedFile && vma.may_write});
    if (vma.object != 0xffffffffu) {
      const bool write = vma.kind == image::VmaKind::SharedObject && vma.may_write;
      return (write ? numbers_.objects_rw : numbers_.objects_ro) + static_cast<int>(vma.object);
    }
    return -1;
  }

  void Map(const image::VmaT& vma, bool has_content) {
    int flags = MAP_FIXED_NOREPLACE;
    if (vma.droppable) {
      flags |= kMapDroppable | MAP_ANONYMOUS;
    } else {
      flags |= IsShared(vma) ? MAP_SHARED : MAP_PRIVATE;
      if (vma.kind == image::VmaKind::Anonymous) flags |= MAP_ANONYMOUS;
    }
    if (vma.grows_down) flags |= MAP_GROWSDOWN;
    if (vma.noreserve && !vma.droppable) flags |= MAP_NORESERVE;
    if (vma.huge_tlb) flags |= MAP_HUGETLB | (__builtin_ctzl(vma.huge_page_size) << MAP_HUGE_SHIFT);
    uint32_t prot = vma.prot;
    // A private mapping that once was writable stays accounted for when it no longer is.
    const bool was_writable = vma.accounted && !vma.noreserve && !IsShared(vma);
    if (((has_content && !CanAttach(image_, vma, numbers_)) || was_writable) && (prot & PROT_WRITE) == 0) {
      // Nothing but writable: the kernel would merge it with a neighbour that is readable, too, to be split
      // again.
      prot = PROT_WRITE;
      protect_later_.push_back(&vma);
    }
    program_.CallExpect(Name("mmap", vma), SYS_mmap,
                        {vma.start, vma.end - vma.start, prot, flags, Fd(vma), vma.offset},
                        static_cast<int64_t>(vma.start));
    // Before the content, so that it comes to lie on huge pages where it did before.
    for (const uint8_t advice : vma.advice) {
      if (advice == MADV_HUGEPAGE || advice == MADV_NOHUGEPAGE) Advise(vma, advice);
    }
  }

  void Advise(const image::VmaT& vma, uint8_t advice) {
    program_.Call(Name(absl::StrCat("madvise with advice ", advice), vma), SYS_madvise,
                  {vma.start, vma.end - vma.start, advice});
  }

  void Fill() {
    std::vector<iovec> parts;
    uint64_t offset = 0;
    uint64_t length = 0;
    auto flush = [&] {
      if (parts.empty()) return;
      const size_t data = program_.AddVector(parts);
      program_.CallExpect(
          absl::StrFormat("read pages at offset %d", offset), SYS_preadv,
          {numbers_.pages.fd, Arg::Data(data), parts.size(), numbers_.pages.offset + offset, 0},
          static_cast<int64_t>(length));
      parts.clear();
      length = 0;
    };
    for (const image::PageRun& run : memory_.runs) {
      for (uint64_t done = 0; done < run.length();) {
        if (parts.size() == kMaxIov || length == kMaxRead ||
            (!parts.empty() && offset + length != run.pages_offset() + done))
          flush();
        if (parts.empty()) offset = run.pages_offset() + done;
        const uint64_t piece = std::min(run.length() - done, kMaxRead - length);
        parts.push_back({reinterpret_cast<void*>(run.start() + done), piece});
        length += piece;
        done += piece;
      }
    }
    flush();
  }

  uint32_t MappedProt(const image::VmaT& vma) const {
    const bool later = std::find(protect_later_.begin(), protect_later_.end(), &vma) != protect_later_.end();
    return later ? PROT_WRITE : vma.prot;
  }

  void AttachOrCopy() {
    std::vector<moult_range> ranges;
    std::vector<moult_range> views;  // what must be copied, seen side by side
    std::vector<MoultCopy> copies;
    uint64_t viewed = 0;
    auto vma = memory_.vmas.begin();
    for (const image::PageRun& run : memory_.runs) {
      while ((*vma)->end <= run.start()) ++vma;
      const uint64_t offset = numbers_.pages.offset + run.pages_offset();
      if (CanAttach(image_, **vma, numbers_)) {
        ranges.push_back({run.start(), run.length(), offset, MappedProt(**vma), numbers_.pages.window});
      } else {
        views.push_back({view_ + viewed, run.length(), offset, PROT_READ, numbers_.pages.window});
        copies.push_back({run.start(), viewed, run.length()});
        viewed += run.length();
      }
    }
    PlanAttach(ranges);
    if (copies.empty()) return;
    // SAFETY: the hole behind the region (CopiedBytes), and unmapped again.
    program_.CallExpect(
        "map a view of the window", SYS_mmap,
        {view_, viewed, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE, -1, 0},
        static_cast<int64_t>(view_));
    PlanAttach(views);
    const size_t list = program_.AddVector(copies);
    program_.Call(absl::StrCat("copy ", copies.size(), " ranges of template pages"), kPseudoCopy,
                  {Arg::Data(list), copies.size(), view_});
    program_.Call("unmap the view of the window", SYS_munmap, {view_, viewed});
  }

  void PlanAttach(const std::vector<moult_range>& ranges) {
    for (size_t at = 0; at < ranges.size();) {
      const size_t count = std::min<size_t>(MOULT_MAX_RANGES, ranges.size() - at);
      moult_attach attach{};
      attach.size = sizeof(attach);
      attach.flags = MOULT_ATTACH_FILES;
      attach.count = static_cast<uint32_t>(count);
      const size_t list = program_.AddData(std::as_bytes(std::span(ranges).subspan(at, count)));
      const size_t data = program_.AddObject(attach);
      program_.AddPointer(data + offsetof(moult_attach, ranges), list);
      program_.Call(absl::StrCat("attach ", count, " ranges of template pages"), SYS_ioctl,
                    {numbers_.pages.fd, MOULT_ATTACH, Arg::Data(data)});
      at += count;
    }
  }

  void Finish(const image::VmaT& vma) {
    for (const uint8_t advice : vma.advice) {
      if (vma.droppable && (advice == MADV_WIPEONFORK || advice == MADV_DONTDUMP))
        continue;  // the kernel's own doing
      if (advice != MADV_HUGEPAGE && advice != MADV_NOHUGEPAGE) Advise(vma, advice);
    }
    for (const image::PageRun& guard : vma.guards) {
      program_.Call(Name("madvise(MADV_GUARD_INSTALL)", vma), SYS_madvise,
                    {guard.start(), guard.length(), kMadvGuardInstall});
    }
    if (!vma.name.empty() && vma.kind == image::VmaKind::Anonymous) {
      const size_t name = program_.AddString(vma.name);
      program_.CallMayFail(
          Name("name", vma), SYS_prctl,
          {PR_SET_VMA, PR_SET_VMA_ANON_NAME, vma.start, vma.end - vma.start, Arg::Data(name)});
    }
    if (vma.locked != 0) {
      program_.Call(Name("mlock", vma), SYS_mlock2,
                    {vma.start, vma.end - vma.start, vma.locked == 2 ? MLOCK_ONFAULT : 0});
    }
  }

  const image::ProcessImageT& image_;
  const FdNumbers& numbers_;
  const uint64_t view_;
  ptrace::ProgramBuilder& program_;
  const image::MemoryMapT& memory_;
  std::vector<const image::VmaT*> protect_later_;
  FillTimes times_{};
};

}  // namespace

absl::StatusOr<ptrace::RemotePtr> FindRegionHole(const image::MemoryMapT& memory,
                                                 const std::vector<proc::MapsEntry>& own, uint64_t size) {
  std::vector<Range> used;
  for (const auto& vma : memory.vmas) used.push_back({vma->start, vma->end});
  for (const proc::MapsEntry& entry : own) {
    if (entry.start < kUserTop) used.push_back({entry.start, entry.end});
  }
  std::sort(used.begin(), used.end(), [](const Range& a, const Range& b) { return a.start > b.start; });
  uint64_t top = kUserTop - kMargin;
  for (const Range& range : used) {
    if (range.end + size + 2 * kMargin <= top)
      return ptrace::RemotePtr((top - size - kMargin) & ~uint64_t{4095});
    top = std::min(top, range.start);
  }
  if (top > kLowest + size + 2 * kMargin) return ptrace::RemotePtr((top - size - kMargin) & ~uint64_t{4095});
  return absl::ResourceExhaustedError("the template leaves no free address range to work from");
}

absl::Status PlanClearAddressSpace(const image::MemoryMapT& memory, const std::vector<proc::MapsEntry>& own,
                                   const RegionLayout& region, ptrace::ProgramBuilder& program) {
  // SAFETY: the process is a fork that exists to be emptied; what is kept is listed here.
  std::vector<Range> keep{{region.address.value(), region.address.value() + region.size}};
  std::vector<const proc::MapsEntry*> special;
  for (const proc::MapsEntry& entry : own) {
    if (entry.path == "[vdso]" || entry.path == "[vvar]" || entry.path == "[vvar_vclock]") {
      keep.push_back({entry.start, entry.end});
      special.push_back(&entry);
    }
  }
  std::sort(keep.begin(), keep.end(), [](const Range& a, const Range& b) { return a.start < b.start; });
  uint64_t at = 0;
  for (const Range& range : keep) {
    if (range.start > at) program.Call("clear the address space", SYS_munmap, {at, range.start - at});
    at = range.end;
  }
  program.Call("clear the address space", SYS_munmap, {at, kUserTop - at});

  // By way of the region's margin, so that old and new places may overlap.
  const uint64_t hop = region.address.value() + region.size + 4096;
  uint64_t offset = 0;
  size_t moved = 0;
  for (const auto& vma : memory.vmas) {
    if (!IsKernelMapping(vma->kind)) continue;
    const auto it = std::find_if(special.begin(), special.end(),
                                 [&](const proc::MapsEntry* e) { return e->path == KernelName(vma->kind); });
    if (it == special.end() || (*it)->end - (*it)->start != vma->end - vma->start) {
      return absl::FailedPreconditionError(
          absl::StrCat("template does not fit: its ", KernelName(vma->kind),
                       " mapping differs from this kernel's; capture the function again"));
    }
    const uint64_t size = vma->end - vma->start;
    program.CallExpect(absl::StrCat("move ", KernelName(vma->kind)), SYS_mremap,
                       {(*it)->start, size, size, MREMAP_MAYMOVE | MREMAP_FIXED, hop + offset},
                       static_cast<int64_t>(hop + offset));
    offset += size;
    ++moved;
  }
  offset = 0;
  for (const auto& vma : memory.vmas) {
    if (!IsKernelMapping(vma->kind)) continue;
    const uint64_t size = vma->end - vma->start;
    program.CallExpect(absl::StrCat("move ", KernelName(vma->kind)), SYS_mremap,
                       {hop + offset, size, size, MREMAP_MAYMOVE | MREMAP_FIXED, vma->start},
                       static_cast<int64_t>(vma->start));
    offset += size;
  }
  if (moved != special.size()) {
    // What the captured process had unmapped must not stay.
    for (const proc::MapsEntry* entry : special) {
      const bool wanted = std::any_of(memory.vmas.begin(), memory.vmas.end(), [&](const auto& vma) {
        return IsKernelMapping(vma->kind) && entry->path == KernelName(vma->kind);
      });
      if (!wanted)
        program.Call(absl::StrCat("unmap ", entry->path), SYS_munmap,
                     {entry->start, entry->end - entry->start});
    }
  }
  return absl::OkStatus();
}

uint64_t CopiedBytes(const image::ProcessImageT& image, const FdNumbers& numbers) {
  if (!numbers.pages.attach) return 0;
  const image::MemoryMapT& memory = *image.processes.front()->memory;
  uint64_t bytes = 0;
  auto vma = memory.vmas.begin();
  for (const image::PageRun& run : memory.runs) {
    while ((*vma)->end <= run.start()) ++vma;
    if (!CanAttach(image, **vma, numbers)) bytes += run.length();
  }
  return bytes;
}

FillTimes PlanMappings(const image::ProcessImageT& image, const FdNumbers& numbers, uint64_t view,
                       ptrace::ProgramBuilder& program) {
  return MappingPlanner(image, numbers, view, program).Plan();
}

void PlanMemoryMap(const image::ProcessImageT& image, const FdNumbers& numbers,
                   ptrace::ProgramBuilder& program) {
  const image::MemoryMapT& memory = *image.processes.front()->memory;
  const size_t auxv = program.AddVector(memory.auxv);
  prctl_mm_map map{};
  map.start_code = memory.start_code;
  map.end_code = memory.end_code;
  map.start_data = memory.start_data;
  map.end_data = memory.end_data;
  map.start_brk = memory.start_brk;
  map.brk = memory.brk;
  map.start_stack = memory.start_stack;
  map.arg_start = memory.arg_start;
  map.arg_end = memory.arg_end;
  map.env_start = memory.env_start;
  map.env_end = memory.env_end;
  map.auxv_size = static_cast<uint32_t>(memory.auxv.size());
  map.exe_fd = static_cast<uint32_t>(numbers.files.at({memory.exe, false}));
  const size_t data = program.AddObject(map);
  program.AddPointer(data + offsetof(prctl_mm_map, auxv), auxv);
  program.Call("prctl(PR_SET_MM_MAP)", SYS_prctl,
               {PR_SET_MM, PR_SET_MM_MAP, Arg::Data(data), sizeof(map), 0});
  for (size_t i = 0; i < image.objects.size(); ++i) {
    const image::MemoryObjectT& object = *image.objects[i];
    if (object.kind == image::ObjectKind::Memfd && object.seals != 0) {
      program.Call(absl::StrCat("seal memfd ", object.name), SYS_fcntl,
                   {numbers.objects_rw + static_cast<int>(i), F_ADD_SEALS, object.seals});
    }
  }
  if (memory.lock_future != 0) program.Call("mlockall", SYS_mlockall, {memory.lock_future});
}

}  // namespace moult::engine
