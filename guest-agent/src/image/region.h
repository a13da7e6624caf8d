// SPDX-License-Identifier: Apache-2.0
#ifndef MOULT_IMAGE_REGION_H_
#define MOULT_IMAGE_REGION_H_

#include <cstddef>
#include <memory>

#include "image/plan.h"
#include "moult/base/status.h"

namespace moult::engine {

// The region that tool and builder share, at the same address in both.
class Region {
 public:
  static absl::StatusOr<std::unique_ptr<Region>> Create(const RegionLayout& layout);
  ~Region();
  Region(const Region&) = delete;
  Region& operator=(const Region&) = delete;
  std::byte* view() const { return view_; }

 private:
  Region(std::byte* view, size_t size) : view_(view), size_(size) {}
  std::byte* const view_;
  const size_t size_;
};

}  // namespace moult::engine

#endif  // MOULT_IMAGE_REGION_H_
