// SPDX-License-Identifier: Apache-2.0
#ifndef MOULT_TOOLS_MOULTCTL_READ_FILE_H_
#define MOULT_TOOLS_MOULTCTL_READ_FILE_H_

#include <string>

#include "absl/status/statusor.h"

namespace moult::ctl {

// All of the file; "-" is stdin. `what` begins the error, "specification f.json".
absl::StatusOr<std::string> ReadFile(const std::string& path, const std::string& what);

}  // namespace moult::ctl

#endif  // MOULT_TOOLS_MOULTCTL_READ_FILE_H_
