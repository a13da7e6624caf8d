// SPDX-License-Identifier: Apache-2.0
#ifndef MOULT_RESOURCE_SIGNALFD_SIGNALFD_H_
#define MOULT_RESOURCE_SIGNALFD_SIGNALFD_H_

#include "resource/fd/kinds.h"

namespace moult::engine {

bool MatchesSignalFd(const OpenDescription& description);
absl::Status CaptureSignalFd(CaptureContext& context, const OpenDescription& description, image::OpenFileT& file);
absl::StatusOr<UniqueFd> RestoreSignalFd(RestoreContext& context, uint32_t index);

}  // namespace moult::engine

#endif  // MOULT_RESOURCE_SIGNALFD_SIGNALFD_H_
