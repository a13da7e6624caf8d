// SPDX-License-Identifier: Apache-2.0
#include "image/window.h"

#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

namespace moult::engine {
namespace {

constexpr uint32_t kLeastVersion = 3;  // of the driver, to show, hold and keep pages

absl::StatusOr<UniqueFd> OpenDevice() {
  UniqueFd fd(open(kWindowDevice, O_RDWR | O_CLOEXEC));
  if (fd.valid()) return fd;
  if (errno == ENOENT || errno == ENXIO || errno == ENODEV) {
    return absl::NotFoundError(absl::StrCat(kWindowDevice, " is not there; load the driver (modprobe moult), or attach in copy mode"));
  }
  return ErrnoStatus(absl::StrCat("open ", kWindowDevice));
}

absl::Status Ask(int device, uint32_t least, moult_info* info) {
  if (ioctl(device, MOULT_INFO, info) < 0) return ErrnoStatus(absl::StrCat("ask ", kWindowDevice, " for its windows"));
  if (info->magic == MOULT_MAGIC && info->version >= least) return absl::OkStatus();
  return absl::FailedPreconditionError(absl::StrCat(kWindowDevice, " is of version ", info->version, ", this takes ", least,
                                                    "; load the driver that came with this agent"));
}

}  // namespace

absl::StatusOr<UniqueFd> OpenDriver(uint32_t least) {
  MOULT_ASSIGN_OR_RETURN(UniqueFd fd, OpenDevice());
  moult_info info{};
  info.size = sizeof(info);
  MOULT_RETURN_IF_ERROR(Ask(fd.get(), least, &info));
  return fd;
}

absl::StatusOr<UniqueFd> OpenWindow(uint32_t window, uint64_t offset, uint64_t length) {
  MOULT_ASSIGN_OR_RETURN(UniqueFd fd, OpenDevice());
  moult_extent extent{};
  extent.size = sizeof(extent);
  extent.window = window;
  extent.offset = offset;
  extent.length = length;
  if (ioctl(fd.get(), MOULT_RESTRICT, &extent) < 0) {
    return ErrnoStatus(absl::StrFormat("open window %d at %#x, %d bytes", window, offset, length));
  }
  return fd;
}

absl::StatusOr<std::vector<moult_window>> ListWindows() {
  MOULT_ASSIGN_OR_RETURN(const UniqueFd fd, OpenDevice());
  std::vector<moult_window> windows(MOULT_MAX_WINDOWS);
  moult_info info{};
  info.size = sizeof(info);
  info.window_capacity = MOULT_MAX_WINDOWS;
  info.windows = reinterpret_cast<uint64_t>(windows.data());
  MOULT_RETURN_IF_ERROR(Ask(fd.get(), kLeastVersion, &info));
  windows.resize(std::min<size_t>(info.window_count, windows.size()));
  return windows;
}

absl::Status ReleaseWindow(uint32_t window, uint64_t offset, uint64_t length) {
  MOULT_ASSIGN_OR_RETURN(const UniqueFd fd, OpenDevice());
  moult_extent extent{};
  extent.size = sizeof(extent);
  extent.window = window;
  extent.offset = offset;
  extent.length = length;
  if (ioctl(fd.get(), MOULT_DETACH, &extent) == 0) return absl::OkStatus();
  const std::string context = absl::StrFormat("release window %d at %#x, %d bytes", window, offset, length);
  if (errno == ENXIO) return absl::NotFoundError(absl::StrCat(context, ": there is no such window"));
  if (errno != EBUSY) return ErrnoStatus(context);
  return absl::FailedPreconditionError(absl::StrCat(context, ": pages are in use: mapped ", extent.mapped,
                                                    " times, ", extent.pinned, " held by something else"));
}

absl::StatusOr<WindowView> WindowView::Map(const PageSource& pages, uint64_t offset, uint64_t length) {
  void* memory = mmap(nullptr, length, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) return ErrnoStatus(absl::StrCat("map ", length, " bytes to see template pages"));
  WindowView view(static_cast<const std::byte*>(memory), length);
  const moult_range range{reinterpret_cast<uint64_t>(memory), length, pages.offset + offset, PROT_READ, pages.window};
  moult_attach attach{};
  attach.size = sizeof(attach);
  attach.count = 1;
  attach.ranges = reinterpret_cast<uint64_t>(&range);
  if (ioctl(pages.fd, MOULT_ATTACH, &attach) < 0) {
    return ErrnoStatus(absl::StrFormat("see window %d at %#x", pages.window, range.window_offset));
  }
  return view;
}

WindowView::~WindowView() {
  if (data_ != nullptr) munmap(const_cast<std::byte*>(data_), length_);
}

}  // namespace moult::engine
