// SPDX-License-Identifier: Apache-2.0
#include "page_png.h"

#include <png.h>

#include "absl/strings/str_cat.h"
#include "bitmap_font.h"

namespace moult::ctl {
namespace {

constexpr Colour kBlack{17, 19, 23};

void Draw(const Grid& grid, Sheet::Point at, Image* image) {
  for (size_t y = 0; y < grid.rows; ++y) {
    for (size_t x = 0; x < grid.columns; ++x) {
      if (grid.At(x, y).pages > 0) image->Set(at.x + x, at.y + y, grid.At(x, y).colour);
    }
  }
}

}  // namespace

void Image::Set(size_t x, size_t y, Colour colour) {
  if (x >= width_ || y >= height_) return;
  uint8_t* const at = &bytes_[(y * width_ + x) * 3];
  at[0] = colour.r;
  at[1] = colour.g;
  at[2] = colour.b;
}

void Image::Fill(Sheet::Point at, size_t width, size_t height, Colour colour) {
  for (size_t y = 0; y < height; ++y) {
    for (size_t x = 0; x < width; ++x) Set(at.x + x, at.y + y, colour);
  }
}

void Image::Write(Sheet::Point at, std::string_view text, Colour colour) {
  constexpr size_t kScale = kCharacterWidth / (kGlyphColumns + 1);
  static_assert(kGlyphRows * kScale <= kTextHeight);
  for (const char c : text) {
    // Of a UTF-8 character of several bytes one box is enough.
    if ((static_cast<unsigned char>(c) & 0xc0) == 0x80) continue;
    for (size_t y = 0; y < kGlyphRows; ++y) {
      for (size_t x = 0; x < kGlyphColumns; ++x) {
        if (Ink(c, x, y)) Fill({at.x + x * kScale, at.y + y * kScale}, kScale, kScale, colour);
      }
    }
    at.x += kCharacterWidth;
  }
}

Image Paint(const Picture& picture, const Sheet& sheet) {
  Image image(sheet.width, sheet.height);
  Draw(picture.ram, sheet.ram, &image);
  Draw(picture.templates, sheet.templates, &image);
  for (const Sheet::Swatch& swatch : sheet.swatches) image.Fill(swatch.at, kSwatch, kSwatch, swatch.colour);
  for (const Sheet::Line& line : sheet.lines) image.Write(line.at, line.text, kBlack);
  return image;
}

absl::StatusOr<std::string> EncodePng(const Image& image) {
  png_image header{};
  header.version = PNG_IMAGE_VERSION;
  header.width = static_cast<png_uint_32>(image.width());
  header.height = static_cast<png_uint_32>(image.height());
  header.format = PNG_FORMAT_RGB;
  png_alloc_size_t size = PNG_IMAGE_PNG_SIZE_MAX(header);
  std::string file(size, '\0');
  if (png_image_write_to_memory(&header, file.data(), &size, 0, image.bytes().data(), 0, nullptr) == 0)
    return absl::InternalError(
        absl::StrCat("map: encode a PNG of ", image.width(), " x ", image.height(), ": ", header.message));
  file.resize(size);
  return file;
}

}  // namespace moult::ctl
