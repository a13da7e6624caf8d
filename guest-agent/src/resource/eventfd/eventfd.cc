// SPDX-License-Identifier: Apache-2.0
#include "resource/eventfd/eventfd.h"

#include <sys/eventfd.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>

namespace moult::engine {
namespace {

// False: nothing there, or somebody else's doing.
bool Take(int fd, uint64_t* value) {
  const iovec to{value, sizeof(*value)};
  return preadv2(fd, &to, 1, -1, RWF_NOWAIT) == static_cast<ssize_t>(sizeof(*value));
}

bool Give(int fd, uint64_t value) { return value == 0 || write(fd, &value, sizeof(value)) == static_cast<ssize_t>(sizeof(value)); }

// Before 6.5 the kernel does not tell EFD_SEMAPHORE, and only reading shows it: one by one, or all at once. So
// the counter is brought to two or more, read, and set to what it was. The process is stopped, and a thread of it
// that waits will look again by itself; at worst it meets an edge-triggered event a second time.
absl::StatusOr<bool> ProbeSemaphore(int fd, uint64_t count) {
  uint64_t first = 0;
  if (count < 2 && !Give(fd, 2 - count)) return ErrnoStatus("write, to learn whether it is a semaphore");
  const uint64_t there = std::max<uint64_t>(count, 2);
  if (!Take(fd, &first)) return ErrnoStatus("read, to learn whether it is a semaphore");
  if (first == 1) {
    uint64_t second = 0;
    if (count == 0 && !Take(fd, &second)) return ErrnoStatus("set the counter back to 0");
    if (count >= 2 && !Give(fd, 1)) return ErrnoStatus("give back what was read");
    return true;
  }
  if (!Give(fd, count + (first - there))) return ErrnoStatus("give back what was read");
  if (first != there) return absl::UnavailableError("its counter changed meanwhile: another process uses it; try again");
  return false;
}

}  // namespace

bool MatchesEventFd(const OpenDescription& description) { return description.info.eventfd.has_value(); }

absl::Status CaptureEventFd(CaptureContext&, const OpenDescription& description, image::OpenFileT& file) {
  image::EventFdT resource;
  resource.count = description.info.eventfd->count;
  if (description.info.eventfd->semaphore.has_value()) {
    resource.semaphore = *description.info.eventfd->semaphore;
  } else {
    MOULT_ASSIGN_OR_RETURN(resource.semaphore, ProbeSemaphore(description.fd, resource.count));
  }
  file.resource.Set(std::move(resource));
  return absl::OkStatus();
}

absl::StatusOr<UniqueFd> RestoreEventFd(RestoreContext& context, uint32_t index) {
  const auto& resource = *context.open_file(index).resource.AsEventFd();
  UniqueFd fd(eventfd(0, EFD_CLOEXEC | (resource.semaphore ? EFD_SEMAPHORE : 0)));
  if (!fd.valid()) return ErrnoStatus("eventfd");
  if (resource.count != 0 && write(fd.get(), &resource.count, sizeof(resource.count)) < 0) return ErrnoStatus("set the eventfd's counter");
  return fd;
}

}  // namespace moult::engine
