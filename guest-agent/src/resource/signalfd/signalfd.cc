// SPDX-License-Identifier: Apache-2.0
#include "resource/signalfd/signalfd.h"

#include <sys/syscall.h>
#include <unistd.h>

namespace moult::engine {

bool MatchesSignalFd(const OpenDescription& description) { return description.info.sigmask.has_value(); }

absl::Status CaptureSignalFd(CaptureContext&, const OpenDescription& description, image::OpenFileT& file) {
  image::SignalFdT resource;
  resource.mask = *description.info.sigmask;
  file.resource.Set(std::move(resource));
  return absl::OkStatus();
}

absl::StatusOr<UniqueFd> RestoreSignalFd(RestoreContext& context, uint32_t index) {
  const uint64_t mask = context.open_file(index).resource.AsSignalFd()->mask;
  UniqueFd fd(static_cast<int>(syscall(SYS_signalfd4, -1, &mask, sizeof(mask), 0)));
  if (!fd.valid()) return ErrnoStatus("signalfd");
  return fd;
}

}  // namespace moult::engine
