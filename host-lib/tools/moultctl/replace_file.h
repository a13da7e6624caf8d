// SPDX-License-Identifier: Apache-2.0
#ifndef MOULT_TOOLS_MOULTCTL_REPLACE_FILE_H_
#define MOULT_TOOLS_MOULTCTL_REPLACE_FILE_H_

#include <string>
#include <string_view>

#include "absl/status/status.h"

namespace moult::ctl {

// Makes the file, or puts it in the place of the one that is there: whole, or not at all. A symbolic link is
// followed; what is no regular file (/dev/null, a folder) is refused.
absl::Status ReplaceFile(const std::string& path, std::string_view content);

}  // namespace moult::ctl

#endif  // MOULT_TOOLS_MOULTCTL_REPLACE_FILE_H_
