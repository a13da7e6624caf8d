// SPDX-License-Identifier: Apache-2.0
//
// Template pages of a window, through the driver (kernel-patch/include/uapi/linux/moult.h).
#ifndef MOULT_IMAGE_WINDOW_H_
#define MOULT_IMAGE_WINDOW_H_

#include <linux/moult.h>

#include <cstddef>
#include <cstdint>
#include <vector>

#include "image/page_source.h"
#include "moult/base/status.h"
#include "moult/base/unique_fd.h"

namespace moult::engine {

inline constexpr char kWindowDevice[] = "/dev/moult";

// A descriptor of the driver that can do everything. kNotFound: no driver. kFailedPrecondition: one that is older than
// version `least`.
absl::StatusOr<UniqueFd> OpenDriver(uint32_t least);

// A descriptor of the driver that can attach nothing but `length` bytes of the window from `offset` on, so that
// it may be handed to a process that is to become a function. kNotFound: no driver.
absl::StatusOr<UniqueFd> OpenWindow(uint32_t window, uint64_t offset, uint64_t length);

// The windows that the driver has. kNotFound: no driver.
absl::StatusOr<std::vector<moult_window>> ListWindows();

// OK: nothing uses these pages, and the host may show others there. kFailedPrecondition: something does, which the
// message counts. kNotFound: no driver, or no such window, so nothing can.
absl::Status ReleaseWindow(uint32_t window, uint64_t offset, uint64_t length);

// A part of the content, readable in this process as long as the view lives.
class WindowView {
 public:
  static absl::StatusOr<WindowView> Map(const PageSource& pages, uint64_t offset, uint64_t length);
  WindowView(WindowView&& other) noexcept : data_(other.data_), length_(other.length_) { other.data_ = nullptr; }
  WindowView& operator=(WindowView&&) = delete;
  ~WindowView();
  const std::byte* data() const { return data_; }

 private:
  WindowView(const std::byte* data, uint64_t length) : data_(data), length_(length) {}
  const std::byte* data_;
  uint64_t length_;
};

}  // namespace moult::engine

#endif  // MOULT_IMAGE_WINDOW_H_
