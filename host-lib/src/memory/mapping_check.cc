// SPDX-License-Identifier: Apache-2.0
#include "memory/mapping_check.h"

#include <linux/magic.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>

#include <algorithm>
#include <memory>

#include "absl/strings/str_cat.h"
#include "moult/base/status.h"

namespace moult::host {
namespace {

struct Line {
  uint64_t start;
  uint64_t end;
  bool shared;
  uint64_t offset;
  uint64_t dev;
  uint64_t ino;
};

bool ParseLine(const char* text, Line* line) {
  char flags[5];
  unsigned major, minor;
  // NOLINTNEXTLINE: the kernel writes this file.
  if (sscanf(text, "%lx-%lx %4s %lx %x:%x %lu", &line->start, &line->end, flags, &line->offset, &major,
             &minor, &line->ino) != 7) {
    return false;
  }
  line->shared = flags[3] == 's';
  line->dev = makedev(major, minor);
  return true;
}

absl::Status CheckFile(const RegionConfig& region, struct stat* info) {
  if (fstat(region.fd, info) != 0) return ErrnoStatus(absl::StrCat("fstat fd ", region.fd));
  struct statfs system;
  if (fstatfs(region.fd, &system) != 0) return ErrnoStatus(absl::StrCat("fstatfs fd ", region.fd));
  if (system.f_type == HUGETLBFS_MAGIC) {
    return absl::FailedPreconditionError(
        "hugetlbfs: single pages cannot be given back; use a memfd without huge pages");
  }
  if (region.fd_offset % kPage != 0) return absl::InvalidArgumentError("fd_offset is not page aligned");
  if (region.fd_offset > static_cast<uint64_t>(info->st_size) ||
      region.range.length > static_cast<uint64_t>(info->st_size) - region.fd_offset) {
    return absl::InvalidArgumentError(
        absl::StrCat("the file of ", info->st_size, " bytes ends before the region"));
  }
  return absl::OkStatus();
}

absl::Status CheckLine(const RegionConfig& region, const Line& line, const struct stat& info) {
  if (region.fd < 0) {
    if (line.ino == 0 && !line.shared) return absl::OkStatus();
    if (!line.shared) {
      return absl::FailedPreconditionError(
          "a private mapping of a file: discarding would lose data silently; map it shared "
          "(memory-backend-memfd,share=on) and give its fd, or use anonymous memory");
    }
    return absl::FailedPreconditionError(
        "shared memory without its fd: it cannot be given back; give the fd that is mapped there");
  }
  if (line.ino == 0) return absl::InvalidArgumentError("no file is mapped there, but an fd is given");
  if (!line.shared) {
    return absl::FailedPreconditionError(
        "a private mapping of the fd: discarding would lose data silently and memory is kept twice; map it "
        "shared (memory-backend-memfd,share=on)");
  }
  const uint64_t start = std::max(line.start, reinterpret_cast<uint64_t>(region.hva));
  const uint64_t wanted = region.fd_offset + (start - reinterpret_cast<uint64_t>(region.hva));
  if (line.ino != info.st_ino || line.offset + (start - line.start) != wanted) {
    return absl::InvalidArgumentError(
        "another file, or another part of it, is mapped there than the fd says");
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status CheckMapping(const RegionConfig& region) {
  struct stat info {};
  if (region.fd >= 0) MOULT_RETURN_IF_ERROR(CheckFile(region, &info));
  const std::unique_ptr<FILE, int (*)(FILE*)> maps(fopen("/proc/self/maps", "re"), fclose);
  if (maps == nullptr) return ErrnoStatus("open /proc/self/maps");
  uint64_t at = reinterpret_cast<uint64_t>(region.hva);
  const uint64_t end = at + region.range.length;
  char text[4352];
  while (at < end && fgets(text, sizeof(text), maps.get()) != nullptr) {
    Line line;
    if (!ParseLine(text, &line) || line.end <= at) continue;
    if (line.start > at) break;
    MOULT_RETURN_IF_ERROR(CheckLine(region, line, info));
    at = line.end;
  }
  if (at < end) return absl::InvalidArgumentError("nothing is mapped at a part of [hva, hva + length)");
  return absl::OkStatus();
}

}  // namespace moult::host
