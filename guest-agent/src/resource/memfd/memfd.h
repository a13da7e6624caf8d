// SPDX-License-Identifier: Apache-2.0
#ifndef MOULT_RESOURCE_MEMFD_MEMFD_H_
#define MOULT_RESOURCE_MEMFD_MEMFD_H_

#include "resource/fd/kinds.h"

namespace moult::engine {

bool MatchesMemfd(const OpenDescription& description);
absl::Status CaptureMemfd(CaptureContext& context, const OpenDescription& description, image::OpenFileT& file);
absl::StatusOr<UniqueFd> RestoreMemfd(RestoreContext& context, uint32_t index);

}  // namespace moult::engine

#endif  // MOULT_RESOURCE_MEMFD_MEMFD_H_
