// SPDX-License-Identifier: Apache-2.0
#ifndef MOULT_RESOURCE_LOCK_CAPTURE_H_
#define MOULT_RESOURCE_LOCK_CAPTURE_H_

#include "image/capture_context.h"
#include "resource/fd/kinds.h"

namespace moult::engine {

// Locks that the process holds through this description. Leases are refused.
absl::Status CaptureLocks(CaptureContext& context, const OpenDescription& description, image::OpenFileT& file);

}  // namespace moult::engine

#endif  // MOULT_RESOURCE_LOCK_CAPTURE_H_
