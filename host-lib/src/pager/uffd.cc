// SPDX-License-Identifier: Apache-2.0
#include "pager/uffd.h"

#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <utility>

#include "memory/guest_memory.h"
#include "moult/base/status.h"

// Newer than Debian 12's headers: Linux 6.6.
#ifndef UFFDIO_POISON
#define UFFD_FEATURE_POISON (1 << 14)
#define _UFFDIO_POISON (0x08)
struct uffdio_poison {
  struct uffdio_range range;
  __u64 mode;
  __s64 updated;
};
#define UFFDIO_POISON _IOWR(UFFDIO, _UFFDIO_POISON, struct uffdio_poison)
#endif

namespace moult::host {
namespace {

constexpr int kMostRetries = 1000;  // of EAGAIN without progress: a fork, or such, is under way

uint64_t Number(const std::byte* address) { return reinterpret_cast<uint64_t>(address); }

uffdio_range Range(absl::Span<std::byte> range) { return {Number(range.data()), range.size()}; }

absl::StatusOr<UniqueFd> OpenFd() {
  UniqueFd fd(static_cast<int>(syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK)));
  if (fd.valid()) return fd;
  const int error = errno;
  if (error == ENOSYS) {
    return absl::UnimplementedError("userfaultfd: ENOSYS; the host kernel needs CONFIG_USERFAULTFD");
  }
  if (error != EPERM) return ErrnoStatus(error, "userfaultfd");
  const UniqueFd device(open("/dev/userfaultfd", O_RDWR | O_CLOEXEC));
  if (device.valid()) {
    fd.Reset(ioctl(device.get(), USERFAULTFD_IOC_NEW, O_CLOEXEC | O_NONBLOCK));
    if (fd.valid()) return fd;
  }
  return absl::FailedPreconditionError(
      "userfaultfd: EPERM; let this process open /dev/userfaultfd (Linux 6.1 and later), give it "
      "CAP_SYS_PTRACE, or "
      "set vm.unprivileged_userfaultfd=1");
}

// The handshake can be made once: what the kernel has is asked on another descriptor.
absl::StatusOr<uint64_t> Handshake(int fd, uint64_t features) {
  uffdio_api api = {.api = UFFD_API, .features = features, .ioctls = 0};
  if (ioctl(fd, UFFDIO_API, &api) != 0) return ErrnoStatus("UFFDIO_API");
  return api.features;
}

}  // namespace

absl::StatusOr<Uffd> Uffd::Open(bool shared, bool anonymous) {
  uint64_t wanted = 0;
  if (shared) wanted |= UFFD_FEATURE_MISSING_SHMEM | UFFD_FEATURE_WP_HUGETLBFS_SHMEM;
  if (shared || anonymous) wanted |= UFFD_FEATURE_PAGEFAULT_FLAG_WP;
  return OpenWith(wanted, "5.19 or later for a guest's RAM on a memfd, 5.7 or later for anonymous memory");
}

absl::StatusOr<Uffd> Uffd::OpenForFiles() {
  return OpenWith(UFFD_FEATURE_MISSING_SHMEM | UFFD_FEATURE_MINOR_SHMEM, "5.14 or later");
}

absl::StatusOr<Uffd> Uffd::OpenWith(uint64_t wanted, const char* since) {
  MOULT_ASSIGN_OR_RETURN(const UniqueFd probe, OpenFd());
  MOULT_ASSIGN_OR_RETURN(const uint64_t offered, Handshake(probe.get(), 0));
  if ((offered & wanted) != wanted) {
    return absl::UnimplementedError(absl::StrFormat(
        "userfaultfd: the host kernel lacks features %#x; it must be Linux %s", wanted & ~offered, since));
  }
  wanted |= offered & UFFD_FEATURE_POISON;
  MOULT_ASSIGN_OR_RETURN(UniqueFd fd, OpenFd());
  MOULT_RETURN_IF_ERROR(Handshake(fd.get(), wanted).status());
  return Uffd(std::move(fd), (wanted & UFFD_FEATURE_POISON) != 0);
}

absl::Status Uffd::Register(absl::Span<std::byte> range) const {
  return RegisterAs(range, UFFDIO_REGISTER_MODE_MISSING | UFFDIO_REGISTER_MODE_WP);
}

absl::Status Uffd::RegisterFile(absl::Span<std::byte> range) const {
  return RegisterAs(range, UFFDIO_REGISTER_MODE_MISSING | UFFDIO_REGISTER_MODE_MINOR);
}

absl::Status Uffd::RegisterFiller(absl::Span<std::byte> range) const {
  return RegisterAs(range, UFFDIO_REGISTER_MODE_MISSING);
}

absl::Status Uffd::RegisterAs(absl::Span<std::byte> range, uint64_t mode) const {
  uffdio_register request = {.range = Range(range), .mode = mode, .ioctls = 0};
  if (ioctl(fd_.get(), UFFDIO_REGISTER, &request) == 0) return absl::OkStatus();
  switch (errno) {
    case ENOMEM:
      return absl::ResourceExhaustedError(
          "UFFDIO_REGISTER: ENOMEM; this process has too many mappings, raise vm.max_map_count");
    case EBUSY:
      return absl::FailedPreconditionError(
          "UFFDIO_REGISTER: EBUSY; another userfaultfd of this process (postcopy migration, a background "
          "snapshot) has this memory, wait for its end");
    default:
      return ErrnoStatus("UFFDIO_REGISTER");
  }
}

absl::Status Uffd::Unregister(absl::Span<std::byte> range) const {
  uffdio_range request = Range(range);
  if (ioctl(fd_.get(), UFFDIO_UNREGISTER, &request) == 0) return absl::OkStatus();
  return ErrnoStatus("UFFDIO_UNREGISTER");
}

absl::Status Uffd::Protect(absl::Span<std::byte> range) const {
  return SetProtection(range, UFFDIO_WRITEPROTECT_MODE_WP);
}

absl::Status Uffd::Unprotect(absl::Span<std::byte> range) const { return SetProtection(range, 0); }

absl::Status Uffd::SetProtection(absl::Span<std::byte> range, uint64_t mode) const {
  return InSteps(range, "UFFDIO_WRITEPROTECT", [&](absl::Span<std::byte> part) -> int64_t {
    uffdio_writeprotect request = {.range = Range(part), .mode = mode};
    const int result = ioctl(fd_.get(), UFFDIO_WRITEPROTECT, &request);
    return result == 0 ? static_cast<int64_t>(part.size()) : -errno;
  });
}

// `request(part)` does one ioctl: bytes done from its front, or -errno. The kernel says ENOENT not only for
// memory that is not registered, but also for a range that reaches over two mappings.
template <typename Request>
absl::Status Uffd::InSteps(absl::Span<std::byte> range, const char* what, Request request) const {
  size_t step = range.size();
  for (int tries = 0; !range.empty();) {
    const absl::Span<std::byte> part = range.first(std::min(step, range.size()));
    const int64_t done = request(part);
    if (done > 0) {
      range.remove_prefix(static_cast<size_t>(done));
      tries = 0;
    } else if (done == -EEXIST) {
      // The page is there, but nobody was woken for it.
      Wake(range.first(kPage));
      range.remove_prefix(kPage);
    } else if (done == -ENOENT && part.size() > kPage) {
      step = std::max(part.size() / 2 / kPage, size_t{1}) * kPage;
    } else if (done == -EAGAIN && ++tries < kMostRetries) {
      sched_yield();
    } else {
      return ErrnoStatus(static_cast<int>(-done), what);
    }
  }
  return absl::OkStatus();
}

absl::Status Uffd::Copy(absl::Span<std::byte> range, const std::byte* from) const {
  const std::byte* const start = range.data();
  return InSteps(range, "UFFDIO_COPY", [&](absl::Span<std::byte> part) -> int64_t {
    uffdio_copy request = {.dst = Number(part.data()),
                           .src = Number(from + (part.data() - start)),
                           .len = part.size(),
                           .mode = 0,
                           .copy = 0};
    // SAFETY: puts pages only where there are none, within what was registered.
    const int result = ioctl(fd_.get(), UFFDIO_COPY, &request);
    return result == 0 || request.copy != 0 ? request.copy : -errno;
  });
}

absl::Status Uffd::Zero(absl::Span<std::byte> range) const {
  return InSteps(range, "UFFDIO_ZEROPAGE", [&](absl::Span<std::byte> part) -> int64_t {
    uffdio_zeropage request = {.range = Range(part), .mode = 0, .zeropage = 0};
    // SAFETY: as Copy.
    const int result = ioctl(fd_.get(), UFFDIO_ZEROPAGE, &request);
    return result == 0 || request.zeropage != 0 ? request.zeropage : -errno;
  });
}

absl::Status Uffd::Poison(absl::Span<std::byte> range) const {
  return InSteps(range, "UFFDIO_POISON", [&](absl::Span<std::byte> part) -> int64_t {
    uffdio_poison request = {.range = Range(part), .mode = 0, .updated = 0};
    // SAFETY: as Copy.
    const int result = ioctl(fd_.get(), UFFDIO_POISON, &request);
    return result == 0 || request.updated != 0 ? request.updated : -errno;
  });
}

uint64_t Uffd::Continue(absl::Span<std::byte> range) const {
  uint64_t mapped = 0;
  for (int tries = 0; !range.empty();) {
    uffdio_continue request = {.range = Range(range), .mode = 0, .mapped = 0};
    // SAFETY: maps pages that the file has where there are none, within what was registered.
    const bool all = ioctl(fd_.get(), UFFDIO_CONTINUE, &request) == 0;
    if (all || request.mapped > 0) {
      mapped += static_cast<uint64_t>(request.mapped);
      range.remove_prefix(all ? range.size() : static_cast<size_t>(request.mapped));
      tries = 0;
    } else if (request.mapped == -EAGAIN && ++tries < kMostRetries) {
      sched_yield();
    } else {
      // Mapped already, and then nobody was woken for it; or a hole of the file.
      if (request.mapped == -EEXIST) Wake(range.first(kPage));
      range.remove_prefix(std::min<size_t>(range.size(), kPage));
    }
  }
  return mapped;
}

void Uffd::Wake(absl::Span<std::byte> range) const {
  uffdio_range request = Range(range);
  (void)ioctl(fd_.get(), UFFDIO_WAKE, &request);  // Fails for a bad range only.
}

std::vector<Uffd::Fault> Uffd::Read(size_t most) const {
  std::array<uffd_msg, 16> messages;
  std::vector<Fault> faults;
  const ssize_t n = read(fd_.get(), messages.data(), sizeof(uffd_msg) * std::min(most, messages.size()));
  for (size_t i = 0; n > 0 && i < static_cast<size_t>(n) / sizeof(uffd_msg); ++i) {
    if (messages[i].event != UFFD_EVENT_PAGEFAULT) continue;
    // SAFETY: an address that the kernel tells; it is only looked up.
    faults.push_back({reinterpret_cast<std::byte*>(messages[i].arg.pagefault.address & ~(kPage - 1)),
                      (messages[i].arg.pagefault.flags & UFFD_PAGEFAULT_FLAG_WP) != 0,
                      (messages[i].arg.pagefault.flags & UFFD_PAGEFAULT_FLAG_MINOR) != 0});
  }
  return faults;
}

}  // namespace moult::host
