// SPDX-License-Identifier: Apache-2.0
//
// Inotify instances with their watches and watch numbers. Events that were not read cannot be kept: the kernel
// can neither show them without taking them nor queue given ones, so an instance that has some is refused.
#ifndef MOULT_RESOURCE_INOTIFY_INOTIFY_H_
#define MOULT_RESOURCE_INOTIFY_INOTIFY_H_

#include "resource/fd/kinds.h"

namespace moult::engine {

bool MatchesInotify(const OpenDescription& description);
absl::Status CaptureInotify(CaptureContext& context, const OpenDescription& description, image::OpenFileT& file);
absl::StatusOr<UniqueFd> RestoreInotify(RestoreContext& context, uint32_t index);

}  // namespace moult::engine

#endif  // MOULT_RESOURCE_INOTIFY_INOTIFY_H_
