// SPDX-License-Identifier: Apache-2.0
#ifndef MOULT_RESOURCE_FD_CAPTURE_H_
#define MOULT_RESOURCE_FD_CAPTURE_H_

#include "image/capture_context.h"

namespace moult::engine {

// Fills process.fds and image.open_files. A descriptor of a kind that is not known is refused.
absl::Status CaptureDescriptors(CaptureContext& context);

}  // namespace moult::engine

#endif  // MOULT_RESOURCE_FD_CAPTURE_H_
