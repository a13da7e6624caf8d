// SPDX-License-Identifier: Apache-2.0
//
// Where things are on a sheet with a picture of memory, the strip of templates below it, and the legend: the
// same for every format of file.
#ifndef MOULT_TOOLS_MOULTCTL_PAGE_SHEET_H_
#define MOULT_TOOLS_MOULTCTL_PAGE_SHEET_H_

#include <string>
#include <vector>

#include "page_picture.h"

namespace moult::ctl {

inline constexpr size_t kMargin = 12;
inline constexpr size_t kLineHeight = 20;
inline constexpr size_t kTextHeight = 16;
inline constexpr size_t kCharacterWidth = 12;
inline constexpr size_t kSwatch = 14;

// In pixels; a cell is one. Points are the upper left corners.
struct Sheet {
  struct Point {
    size_t x = 0, y = 0;
  };
  struct Line {
    Point at;
    std::string text;
  };
  struct Swatch {
    Point at;
    Colour colour;
  };
  size_t width = 0, height = 0;
  Point ram, templates;
  std::vector<Line> lines;
  std::vector<Swatch> swatches;
};

Sheet LayOut(const Picture& picture);

}  // namespace moult::ctl

#endif  // MOULT_TOOLS_MOULTCTL_PAGE_SHEET_H_
