// SPDX-License-Identifier: Apache-2.0
#ifndef MOULT_RESOURCE_EVENTFD_EVENTFD_H_
#define MOULT_RESOURCE_EVENTFD_EVENTFD_H_

#include "resource/fd/kinds.h"

namespace moult::engine {

bool MatchesEventFd(const OpenDescription& description);
absl::Status CaptureEventFd(CaptureContext& context, const OpenDescription& description, image::OpenFileT& file);
absl::StatusOr<UniqueFd> RestoreEventFd(RestoreContext& context, uint32_t index);

}  // namespace moult::engine

#endif  // MOULT_RESOURCE_EVENTFD_EVENTFD_H_
