// SPDX-License-Identifier: Apache-2.0
#include "ledger/frame_table.h"

#include <fcntl.h>
#include <linux/kernel-page-flags.h>
#include <unistd.h>

#include <cerrno>

#include "proc/read.h"

namespace moult::agent {
namespace {

// Fills `raw` as far as the kernel goes: it ends at the last frame that it knows of.
absl::Status ReadNumbers(int fd, const char* path, uint64_t first, std::vector<uint64_t>& raw, uint64_t beyond) {
  const size_t size = raw.size() * sizeof(uint64_t);
  size_t done = 0;
  while (done < size) {
    const ssize_t n = pread(fd, reinterpret_cast<char*>(raw.data()) + done, size - done,
                            static_cast<off_t>(first * sizeof(uint64_t) + done));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return ErrnoStatus(absl::StrCat("read ", path));
    if (n == 0) break;
    done += static_cast<size_t>(n);
  }
  for (size_t i = done / sizeof(uint64_t); i < raw.size(); ++i) raw[i] = beyond;
  return absl::OkStatus();
}

}  // namespace

bool KernelMergesPages() {
  for (const char* name : {"run", "pages_shared"}) {
    const auto text = proc::ReadFile(absl::StrCat("/sys/kernel/mm/ksm/", name));
    if (text.ok() && *text != "0\n") return true;
  }
  return false;
}

absl::StatusOr<FrameTable> FrameTable::Open() {
  FrameTable table;
  table.flags_.Reset(open("/proc/kpageflags", O_RDONLY | O_CLOEXEC));
  if (table.flags_.valid()) table.counts_.Reset(open("/proc/kpagecount", O_RDONLY | O_CLOEXEC));
  if (!table.counts_.valid() && errno == ENOENT) {
    return absl::FailedPreconditionError(
        "this kernel has no /proc/kpageflags and kpagecount; use one with CONFIG_PROC_PAGE_MONITOR");
  }
  if (!table.counts_.valid()) return ErrnoStatus("open /proc/kpageflags and kpagecount");
  table.cgroups_.Reset(open("/proc/kpagecgroup", O_RDONLY | O_CLOEXEC));
  return table;
}

absl::Status FrameTable::Read(uint64_t first, size_t count, std::vector<FrameInfo>* frames) {
  frames->resize(count);
  raw_.resize(count);
  MOULT_RETURN_IF_ERROR(ReadNumbers(flags_.get(), "/proc/kpageflags", first, raw_, uint64_t{1} << KPF_NOPAGE));
  for (size_t i = 0; i < count; ++i) (*frames)[i].flags = raw_[i];
  MOULT_RETURN_IF_ERROR(ReadNumbers(counts_.get(), "/proc/kpagecount", first, raw_, 0));
  for (size_t i = 0; i < count; ++i) (*frames)[i].mapped = raw_[i];
  if (cgroups_.valid()) {
    MOULT_RETURN_IF_ERROR(ReadNumbers(cgroups_.get(), "/proc/kpagecgroup", first, raw_, 0));
  } else {
    raw_.assign(count, 0);
  }
  for (size_t i = 0; i < count; ++i) (*frames)[i].cgroup = raw_[i];
  return absl::OkStatus();
}

}  // namespace moult::agent
