// SPDX-License-Identifier: Apache-2.0
#ifndef MOULT_HOST_POOL_SYNC_FOLDER_H_
#define MOULT_HOST_POOL_SYNC_FOLDER_H_

#include <fcntl.h>
#include <unistd.h>

#include <string>

#include "absl/strings/str_cat.h"
#include "moult/base/status.h"
#include "moult/base/unique_fd.h"

namespace moult::host {

// Makes the names in it durable.
inline absl::Status SyncFolder(const std::string& path) {
  const UniqueFd fd(open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!fd.valid() || fsync(fd.get()) != 0) return ErrnoStatus(absl::StrCat("fsync ", path));
  return absl::OkStatus();
}

}  // namespace moult::host

#endif  // MOULT_HOST_POOL_SYNC_FOLDER_H_
