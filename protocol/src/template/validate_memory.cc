// SPDX-License-Identifier: Apache-2.0
#include <sys/sysmacros.h>

#include <algorithm>

#include "validate_internal.h"

namespace moult::image::validate {
namespace {

const uint64_t kDevZero = makedev(1, 5);

std::string Range(uint64_t start, uint64_t end) {
  return absl::StrCat("0x", absl::Hex(start), "-0x", absl::Hex(end));
}

// What backs each kind, and whether it can have pages of its own in `runs`.
enum class Backing { kNothing, kFile, kObject };
struct KindRule {
  Backing backing;
  bool private_content;
};
constexpr KindRule kKindRules[] = {
    {Backing::kNothing, true},   // Anonymous
    {Backing::kFile, true},      // PrivateFile
    {Backing::kFile, false},     // SharedFile
    {Backing::kObject, false},   // SharedObject
    {Backing::kObject, true},    // PrivateObject
    {Backing::kNothing, false},  // Vdso
    {Backing::kNothing, false},  // Vvar
    {Backing::kNothing, false},  // VvarVclock
};
static_assert(std::size(kKindRules) == static_cast<size_t>(VmaKind::MAX) + 1);

absl::Status CheckBacking(const Path& at, const ProcessImageT& image, const VmaT& vma) {
  const Backing backing = kKindRules[static_cast<size_t>(vma.kind)].backing;
  if (backing == Backing::kFile) {
    // A private mapping of /dev/zero is anonymous memory that keeps the device's name.
    const bool device = vma.kind == VmaKind::PrivateFile && vma.file < image.files.size() &&
                        S_ISCHR(image.files[vma.file]->mode) && image.files[vma.file]->rdev == kDevZero;
    MOULT_RETURN_IF_ERROR(CheckFile(at, "file", vma.file, image, device ? S_IFCHR : S_IFREG));
  } else if (vma.file != kNone) {
    return at.BadField("file", vma.file, ", but the kind has none");
  }
  if (backing == Backing::kObject) {
    MOULT_RETURN_IF_ERROR(CheckIndex(at, "object", vma.object, image.objects, "objects"));
    if (vma.kind == VmaKind::PrivateObject && image.objects[vma.object]->kind == ObjectKind::SharedAnon) {
      return at.BadField("object", vma.object, " is shared anonymous memory, which cannot be mapped private");
    }
  } else if (vma.object != kNone) {
    return at.BadField("object", vma.object, ", but the kind has none");
  }
  if (backing == Backing::kNothing) return absl::OkStatus();
  if (!PageAligned(vma.offset)) return at.BadField("offset", "not page aligned: ", vma.offset);
  if (vma.offset > kMaxFileOffset - (vma.end - vma.start)) {
    return at.BadField("offset", vma.offset, " is over the limit");
  }
  return absl::OkStatus();
}

absl::Status CheckHugePages(const Path& at, const VmaT& vma) {
  const uint64_t size = vma.huge_page_size;
  if (!vma.huge_tlb) {
    return size == 0 ? absl::OkStatus() : at.BadField("huge_page_size", size, ", but huge_tlb is not set");
  }
  if (size <= kPageSize || (size & (size - 1)) != 0) {
    return at.BadField("huge_page_size", size, " is not a huge page's");
  }
  if (vma.start % size != 0 || vma.end % size != 0) {
    return at.Bad(Range(vma.start, vma.end), " is not aligned to huge_page_size");
  }
  return absl::OkStatus();
}

absl::Status CheckVma(const Path& at, const ProcessImageT& image, const VmaT& vma, uint64_t previous_end) {
  if (!PageAligned(vma.start)) return at.BadField("start", "not page aligned: 0x", absl::Hex(vma.start));
  if (!PageAligned(vma.end)) return at.BadField("end", "not page aligned: 0x", absl::Hex(vma.end));
  if (vma.start >= vma.end) return at.Bad(Range(vma.start, vma.end), " is empty");
  if (vma.end > kUserEnd) {
    return at.BadField("end", "0x", absl::Hex(vma.end), " is above the user address space");
  }
  if (vma.start < previous_end) {
    return at.Bad(Range(vma.start, vma.end), " starts below 0x", absl::Hex(previous_end),
                  ", where the one before ends");
  }
  if (vma.prot > 7) return at.BadField("prot", vma.prot, " has unknown bits");
  if (!InRange(vma.kind, VmaKind::MAX)) return at.BadField("kind", static_cast<int>(vma.kind), " is unknown");
  if (vma.locked > 2) return at.BadField("locked", static_cast<int>(vma.locked), " is unknown");
  MOULT_RETURN_IF_ERROR(CheckCount(at, "advice", vma.advice, kMaxAdvice));
  MOULT_RETURN_IF_ERROR(CheckText(at, "name", vma.name, kMaxVmaName));
  MOULT_RETURN_IF_ERROR(CheckBacking(at, image, vma));
  MOULT_RETURN_IF_ERROR(CheckHugePages(at, vma));
  uint64_t position = vma.start;
  for (size_t i = 0; i < vma.guards.size(); ++i) {
    const PageRun& guard = vma.guards[i];
    const Path here(at, "guards", i);
    if (!PageAligned(guard.start()) || !PageAligned(guard.length()) || guard.length() == 0) {
      return here.Bad("not whole pages");
    }
    if (guard.start() < position || guard.start() >= vma.end || guard.length() > vma.end - guard.start()) {
      return here.Bad("not inside its vma, rising and disjoint");
    }
    position = guard.start() + guard.length();
  }
  return absl::OkStatus();
}

// Each run lies in one mapping that can have content of its own. Both lists rise, so one pass does.
absl::Status CheckRunsInVmas(const Path& at, const MemoryMapT& memory) {
  size_t v = 0;
  for (size_t i = 0; i < memory.runs.size(); ++i) {
    const PageRun& run = memory.runs[i];
    const uint64_t end = run.start() + run.length();
    while (v < memory.vmas.size() && memory.vmas[v]->end <= run.start()) ++v;
    const Path here(at, "runs", i);
    if (v == memory.vmas.size() || run.start() < memory.vmas[v]->start || end > memory.vmas[v]->end) {
      return here.Bad(Range(run.start(), end), " is not inside one vma");
    }
    const VmaT& vma = *memory.vmas[v];
    if (!kKindRules[static_cast<size_t>(vma.kind)].private_content || vma.droppable) {
      return here.Bad(Range(run.start(), end), " is in vmas[", v, "], which has no private content");
    }
  }
  return absl::OkStatus();
}

absl::Status CheckLayout(const Path& at, const MemoryMapT& memory) {
  const struct {
    const char* field;
    uint64_t start;
    uint64_t end;
  } spans[] = {{"end_code", memory.start_code, memory.end_code},
               {"end_data", memory.start_data, memory.end_data},
               {"brk", memory.start_brk, memory.brk},
               {"start_stack", 0, memory.start_stack},
               {"arg_end", memory.arg_start, memory.arg_end},
               {"env_end", memory.env_start, memory.env_end}};
  for (const auto& span : spans) {
    if (span.end > kUserEnd) {
      return at.BadField(span.field, "0x", absl::Hex(span.end), " is above the user address space");
    }
    if (span.start > span.end) {
      return at.BadField(span.field, "0x", absl::Hex(span.end), " is below its start");
    }
  }
  if (memory.auxv.size() % 16 != 0 || memory.auxv.size() > kMaxAuxv) {
    return at.BadField("auxv", memory.auxv.size(), " bytes are not an auxiliary vector");
  }
  if (memory.lock_future > 7) return at.BadField("lock_future", memory.lock_future, " has unknown bits");
  if (memory.coredump_filter > 0x1ff) {
    return at.BadField("coredump_filter", memory.coredump_filter, " has unknown bits");
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status CheckRuns(const Path& at, const char* field, const std::vector<PageRun>& runs, uint64_t end,
                       uint64_t pages_size) {
  uint64_t position = 0;
  for (size_t i = 0; i < runs.size(); ++i) {
    const PageRun& run = runs[i];
    const Path here(at, field, i);
    if (!PageAligned(run.start()))
      return here.BadField("start", "not page aligned: 0x", absl::Hex(run.start()));
    if (!PageAligned(run.length()) || run.length() == 0) {
      return here.BadField("length", run.length(), " is not whole pages");
    }
    if (!PageAligned(run.pages_offset())) {
      return here.BadField("pages_offset", "not page aligned: ", run.pages_offset());
    }
    if (run.start() < position) return here.BadField("start", "0x", absl::Hex(run.start()), " is not rising");
    if (run.start() > end || run.length() > end - run.start()) {
      return here.Bad("ends past 0x", absl::Hex(end));
    }
    if (run.pages_offset() > pages_size || run.length() > pages_size - run.pages_offset()) {
      return here.BadField("pages_offset", run.pages_offset(), " + ", run.length(),
                           " is past the end of pages at ", pages_size);
    }
    position = run.start() + run.length();
  }
  return absl::OkStatus();
}

absl::Status CheckObjects(const Path& at, const ProcessImageT& image, uint64_t pages_size) {
  MOULT_RETURN_IF_ERROR(CheckCount(at, "objects", image.objects, kMaxObjects));
  for (size_t i = 0; i < image.objects.size(); ++i) {
    const MemoryObjectT& object = *image.objects[i];
    const Path here(at, "objects", i);
    if (!InRange(object.kind, ObjectKind::MAX)) {
      return here.BadField("kind", static_cast<int>(object.kind), " is unknown");
    }
    MOULT_RETURN_IF_ERROR(CheckText(here, "name", object.name, kMaxPath));
    if (object.size > kMaxFileOffset - kPageSize)
      return here.BadField("size", object.size, " is over the limit");
    if (object.mode > 07777) return here.BadField("mode", object.mode, " has bits that are not permissions");
    if (object.kind != ObjectKind::Memfd && (object.seals != 0 || object.memfd_flags != 0)) {
      return here.Bad("has seals or memfd_flags, but is no memfd");
    }
    if ((object.memfd_flags & 1u) != 0) return here.BadField("memfd_flags", "has MFD_CLOEXEC");
    const uint64_t end = (object.size + kPageSize - 1) / kPageSize * kPageSize;
    MOULT_RETURN_IF_ERROR(CheckRuns(here, "runs", object.runs, end, pages_size));
  }
  return absl::OkStatus();
}

absl::Status CheckMemory(const Path& at, const ProcessImageT& image, const MemoryMapT& memory,
                         uint64_t pages_size) {
  MOULT_RETURN_IF_ERROR(CheckLayout(at, memory));
  MOULT_RETURN_IF_ERROR(CheckFile(at, "exe", memory.exe, image, S_IFREG));
  if (memory.vmas.empty()) return at.BadField("vmas", "empty");
  MOULT_RETURN_IF_ERROR(CheckCount(at, "vmas", memory.vmas, kMaxVmas));
  size_t seen[static_cast<size_t>(VmaKind::MAX) + 1] = {};
  uint64_t previous_end = 0;
  for (size_t i = 0; i < memory.vmas.size(); ++i) {
    const VmaT& vma = *memory.vmas[i];
    const Path here(at, "vmas", i);
    MOULT_RETURN_IF_ERROR(CheckVma(here, image, vma, previous_end));
    if (seen[static_cast<size_t>(vma.kind)]++ != 0 && vma.kind >= VmaKind::Vdso) {
      return here.BadField("kind", EnumNameVmaKind(vma.kind), " is there twice");
    }
    previous_end = vma.end;
  }
  MOULT_RETURN_IF_ERROR(CheckRuns(at, "runs", memory.runs, kUserEnd, pages_size));
  return CheckRunsInVmas(at, memory);
}

}  // namespace moult::image::validate
