// SPDX-License-Identifier: Apache-2.0
//
// What file systems can and cannot.
#ifndef MOULT_HOST_POOL_FILE_FILE_SYSTEM_H_
#define MOULT_HOST_POOL_FILE_FILE_SYSTEM_H_

#include <string>

#include "absl/status/status.h"

namespace moult::host {

// kFailedPrecondition: files of that folder cannot be written, only mapped. `what` is for the message.
absl::Status CheckWritableFiles(const std::string& folder, const std::string& what);

// tmpfs, ramfs.
bool IsInMemory(const std::string& folder);
// The same by the table of mounts, without a question to the file system, which may not answer; links are not followed.
bool IsMountedInMemory(const std::string& folder);

// `to`, an empty file, gets the content of `from`, of whose blocks there is one copy until either is written to.
// kUnimplemented: they are on two file systems, or on one that cannot; nothing has happened.
absl::Status CloneFile(int from, int to);

}  // namespace moult::host

#endif  // MOULT_HOST_POOL_FILE_FILE_SYSTEM_H_
