// SPDX-License-Identifier: Apache-2.0
#ifndef MOULT_IMAGE_PLACE_H_
#define MOULT_IMAGE_PLACE_H_

#include <sys/types.h>

#include "moult/base/status.h"
#include "moult/protocol/schema.h"

namespace moult::engine {

// Whether the process can be in the caller's own namespaces: its clocks would not go back, its pid and tids are free.
absl::Status CheckPlaceHere(const image::ProcessImageT& image);

// The error for a pid that is not free: who has it, and what to do.
absl::Status PidTaken(pid_t pid);

}  // namespace moult::engine

#endif  // MOULT_IMAGE_PLACE_H_
