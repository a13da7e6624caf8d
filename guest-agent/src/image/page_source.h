// SPDX-License-Identifier: Apache-2.0
#ifndef MOULT_IMAGE_PAGE_SOURCE_H_
#define MOULT_IMAGE_PAGE_SOURCE_H_

#include <cstdint>

namespace moult::engine {

// Where the page content of a template is: pages_offset 0 is at `offset` of `fd`.
struct PageSource {
  int fd = -1;          // read with pread: a template's `pages`, or the driver's device
  uint64_t offset = 0;  // page aligned
  // `fd` is the driver's: pages of private anonymous memory are not read but attached, from window `window`.
  bool attach = false;
  uint32_t window = 0;
  bool operator==(const PageSource&) const = default;
};

}  // namespace moult::engine

#endif  // MOULT_IMAGE_PAGE_SOURCE_H_
