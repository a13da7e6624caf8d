// SPDX-License-Identifier: Apache-2.0
#ifndef MOULT_RESOURCE_SECCOMP_CAPTURE_H_
#define MOULT_RESOURCE_SECCOMP_CAPTURE_H_

#include "image/capture_context.h"

namespace moult::engine {

absl::Status CaptureSeccomp(CaptureContext& context, pid_t tid, const proc::Status& status, image::ThreadT& thread);

}  // namespace moult::engine

#endif  // MOULT_RESOURCE_SECCOMP_CAPTURE_H_
