// SPDX-License-Identifier: Apache-2.0
#include "resource/eventfd/eventfd.h"

#include <sys/eventfd.h>
#include <unistd.h>

namespace moult::engine {

bool MatchesEventFd(const OpenDescription& description) { return description.info.eventfd.has_value(); }

absl::Status CaptureEventFd(CaptureContext& context, const OpenDescription& description, image::OpenFileT& file) {
  image::EventFdT resource;
  resource.count = description.info.eventfd->count;
  if (!description.info.eventfd->semaphore.has_value()) {
    // Before 6.5 the kernel keeps it to itself, and only reading, which takes from the counter, would show it.
    resource.semaphore = false;
    context.Note(absl::StrCat(description.Name(), ": this kernel does not tell EFD_SEMAPHORE; comes back as a plain counter"));
  } else {
    resource.semaphore = *description.info.eventfd->semaphore;
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
