// SPDX-License-Identifier: Apache-2.0
#include "image/region.h"

#include <sys/mman.h>

namespace moult::engine {

absl::StatusOr<std::unique_ptr<Region>> Region::Create(const RegionLayout& layout) {
  // SAFETY: a hole in the tool's address space and in the template's (FindRegionHole).
  void* view = mmap(reinterpret_cast<void*>(layout.address.value()), layout.size, PROT_READ | PROT_WRITE | PROT_EXEC,
                    MAP_SHARED | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
  if (view == MAP_FAILED) return ErrnoStatus("map the restore region");
  return std::unique_ptr<Region>(new Region(static_cast<std::byte*>(view), layout.size));
}

Region::~Region() { munmap(view_, size_); }

}  // namespace moult::engine
