// SPDX-License-Identifier: Apache-2.0
//
// Descriptors of things with a name in the file system: regular files, directories, character devices, and
// O_PATH descriptors of any of them; and regular files whose name is gone.
#ifndef MOULT_RESOURCE_FILE_FILE_H_
#define MOULT_RESOURCE_FILE_FILE_H_

#include "resource/fd/kinds.h"

namespace moult::engine {

// Devices whose descriptors hold no state of their own, and whose opening does nothing: null, zero, full, random,
// urandom.
bool IsStatelessDevice(dev_t device);

// The kind of file system where `path` leads, if its files are windows on the kernel's state and not content; else null.
const char* PseudoFileSystemOf(const char* path);

bool MatchesPathOnly(const OpenDescription& description);
absl::Status CapturePathOnly(CaptureContext& context, const OpenDescription& description, image::OpenFileT& file);
absl::StatusOr<UniqueFd> RestorePathOnly(RestoreContext& context, uint32_t index);

bool MatchesRegularFile(const OpenDescription& description);
absl::Status CaptureRegularFile(CaptureContext& context, const OpenDescription& description, image::OpenFileT& file);
absl::StatusOr<UniqueFd> RestoreRegularFile(RestoreContext& context, uint32_t index);

bool MatchesUnlinked(const OpenDescription& description);
absl::Status CaptureUnlinked(CaptureContext& context, const OpenDescription& description, image::OpenFileT& file);
absl::StatusOr<UniqueFd> RestoreUnlinked(RestoreContext& context, uint32_t index);

bool MatchesDirectory(const OpenDescription& description);
absl::Status CaptureDirectory(CaptureContext& context, const OpenDescription& description, image::OpenFileT& file);
absl::StatusOr<UniqueFd> RestoreDirectory(RestoreContext& context, uint32_t index);

bool MatchesDevice(const OpenDescription& description);
absl::Status CaptureDevice(CaptureContext& context, const OpenDescription& description, image::OpenFileT& file);
absl::StatusOr<UniqueFd> RestoreDevice(RestoreContext& context, uint32_t index);

}  // namespace moult::engine

#endif  // MOULT_RESOURCE_FILE_FILE_H_
