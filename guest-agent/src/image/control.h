// SPDX-License-Identifier: Apache-2.0
#ifndef MOULT_IMAGE_CONTROL_H_
#define MOULT_IMAGE_CONTROL_H_

#include <cstdint>

namespace moult::engine {

// First page of the region that tool and builder share.
struct Control {
  uint32_t go;       // futex: set by the tool when it has seized the builder
  uint32_t ready;    // threads that have run their programs
  uint32_t park;     // never changes: threads wait on it
  int32_t code;      // absl::StatusCode of a builder that gave up, 0: none
  char message[2048];
};

}  // namespace moult::engine

#endif  // MOULT_IMAGE_CONTROL_H_
