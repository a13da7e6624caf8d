// SPDX-License-Identifier: Apache-2.0
#ifndef MOULT_RESOURCE_TIMERFD_TIMERFD_H_
#define MOULT_RESOURCE_TIMERFD_TIMERFD_H_

#include "resource/fd/kinds.h"

namespace moult::engine {

bool MatchesTimerFd(const OpenDescription& description);
absl::Status CaptureTimerFd(CaptureContext& context, const OpenDescription& description, image::OpenFileT& file);
absl::StatusOr<UniqueFd> RestoreTimerFd(RestoreContext& context, uint32_t index);

}  // namespace moult::engine

#endif  // MOULT_RESOURCE_TIMERFD_TIMERFD_H_
