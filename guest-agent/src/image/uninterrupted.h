// SPDX-License-Identifier: Apache-2.0
#ifndef MOULT_IMAGE_UNINTERRUPTED_H_
#define MOULT_IMAGE_UNINTERRUPTED_H_

#include <functional>

#include "moult/base/status.h"

namespace moult::engine {

// For what leaves something behind when it is done by half, such as a name in a folder. `steps` run in a
// helper that shares the caller's memory, descriptors and working directory, and that goes on when the caller
// is killed together with the tool that traces it. The caller stands still meanwhile.
absl::Status Uninterrupted(const std::function<absl::Status()>& steps);

}  // namespace moult::engine

#endif  // MOULT_IMAGE_UNINTERRUPTED_H_
