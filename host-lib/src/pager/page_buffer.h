// SPDX-License-Identifier: Apache-2.0
#ifndef MOULT_HOST_PAGER_PAGE_BUFFER_H_
#define MOULT_HOST_PAGER_PAGE_BUFFER_H_

#include <cstddef>
#include <cstdlib>
#include <memory>
#include <new>

#include "memory/guest_memory.h"

namespace moult::host {

// Pages that are moved at a time.
inline constexpr size_t kPiecePages = 256;

// Room for pages on their way, page aligned.
class PageBuffer {
 public:
  explicit PageBuffer(size_t pages)
      : pages_(pages), data_(static_cast<std::byte*>(std::aligned_alloc(kPage, pages * kPage))) {
    if (data_ == nullptr) throw std::bad_alloc();
  }
  size_t pages() const { return pages_; }
  std::byte* page(size_t i) { return data_.get() + i * kPage; }
  absl::Span<std::byte> first(size_t pages) { return {data_.get(), pages * kPage}; }

 private:
  struct Free {
    void operator()(std::byte* data) const { std::free(data); }
  };
  size_t pages_;
  std::unique_ptr<std::byte, Free> data_;
};

}  // namespace moult::host

#endif  // MOULT_HOST_PAGER_PAGE_BUFFER_H_
