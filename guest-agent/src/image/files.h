// SPDX-License-Identifier: Apache-2.0
//
// Files that a template names: their digests at capture, and whether they still match at restore.
#ifndef MOULT_IMAGE_FILES_H_
#define MOULT_IMAGE_FILES_H_

#include <sys/stat.h>

#include <string>
#include <vector>

#include "image/known_digests.h"
#include "moult/base/status.h"
#include "moult/protocol/schema.h"

namespace moult::engine {

// Adds the digests of files that must match exactly, reading those that `known` does not have. `root` is put before every
// path ("/proc/7/root"). Returns the paths of those that changed since they were listed, which have none: a restore will refuse them.
absl::StatusOr<std::vector<std::string>> DigestFiles(const std::string& root, const KnownDigests& known,
                                                    image::ProcessImageT& image);

// kFailedPrecondition names the first file that is missing or has changed, and how.
absl::Status CheckFiles(const image::ProcessImageT& image);

// Whether `st` is of the same file, unwritten since the capture.
bool SameIdentity(const image::FileRefT& file, const struct stat& st);
// Compares size and digest of an open file with what was captured.
absl::Status CheckContent(const image::FileRefT& file, int fd, const struct stat& st);

}  // namespace moult::engine

#endif  // MOULT_IMAGE_FILES_H_
