// SPDX-License-Identifier: Apache-2.0
//
// Files that a template names: their digests at capture, and whether they still match at restore.
#ifndef MOULT_IMAGE_FILES_H_
#define MOULT_IMAGE_FILES_H_

#include <sys/stat.h>

#include <string>

#include "moult/base/status.h"
#include "moult/protocol/schema.h"

namespace moult::engine {

// Adds the digests of files that must match exactly. `root` is put before every path ("/proc/7/root").
// A file that changed since it was listed keeps none: only its identity can then match.
absl::Status DigestFiles(const std::string& root, image::ProcessImageT& image);

// kFailedPrecondition names the first file that is missing or has changed, and how.
absl::Status CheckFiles(const image::ProcessImageT& image);

// Whether `st` is of the same file, unwritten since the capture.
bool SameIdentity(const image::FileRefT& file, const struct stat& st);
// Compares size and digest of an open file with what was captured.
absl::Status CheckContent(const image::FileRefT& file, int fd, const struct stat& st);

}  // namespace moult::engine

#endif  // MOULT_IMAGE_FILES_H_
