// SPDX-License-Identifier: Apache-2.0
#ifndef MOULT_HOST_MEMORY_MAPPING_ERROR_H_
#define MOULT_HOST_MEMORY_MAPPING_ERROR_H_

#include <cerrno>

#include "moult/base/status.h"

namespace moult::host {

// What to do when a call that makes or splits mappings of this process says ENOMEM.
inline constexpr absl::string_view kMappingRemedy =
    "; this process has too many mappings, raise vm.max_map_count, or memory is short";

// ErrnoStatus of such a call.
inline absl::Status MappingError(absl::string_view what) {
  const int error = errno;
  const absl::Status status = ErrnoStatus(error, what);
  if (error != ENOMEM) return status;
  return absl::Status(status.code(), absl::StrCat(WithoutRemedy(status), kMappingRemedy));
}

// Where the allocator has none: in a process that has too many mappings it gets no large piece.
inline absl::Status OutOfMemory() {
  return absl::ResourceExhaustedError("out of memory; free some, or raise vm.max_map_count if this process has too many mappings");
}

}  // namespace moult::host

#endif  // MOULT_HOST_MEMORY_MAPPING_ERROR_H_
