// SPDX-License-Identifier: Apache-2.0
//
// A picture of memory as PNG, its legend's words included.
#ifndef MOULT_TOOLS_MOULTCTL_PAGE_PNG_H_
#define MOULT_TOOLS_MOULTCTL_PAGE_PNG_H_

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "page_picture.h"
#include "page_sheet.h"

namespace moult::ctl {

class Image {
 public:
  // White.
  Image(size_t width, size_t height) : width_(width), height_(height), bytes_(width * height * 3, 0xff) {}

  size_t width() const { return width_; }
  size_t height() const { return height_; }
  const std::vector<uint8_t>& bytes() const { return bytes_; }  // red, green, blue; row by row
  // What is outside is left out.
  void Set(size_t x, size_t y, Colour colour);
  void Fill(Sheet::Point at, size_t width, size_t height, Colour colour);
  void Write(Sheet::Point at, std::string_view text, Colour colour);

 private:
  size_t width_, height_;
  std::vector<uint8_t> bytes_;
};

Image Paint(const Picture& picture, const Sheet& sheet);
// The file's content.
absl::StatusOr<std::string> EncodePng(const Image& image);

}  // namespace moult::ctl

#endif  // MOULT_TOOLS_MOULTCTL_PAGE_PNG_H_
