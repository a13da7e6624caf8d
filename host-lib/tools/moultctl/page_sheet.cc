// SPDX-License-Identifier: Apache-2.0
#include "page_sheet.h"

#include <algorithm>

#include "page_legend.h"

namespace moult::ctl {

Sheet LayOut(const Picture& picture) {
  Sheet sheet;
  size_t y = kMargin;
  const auto write = [&](size_t x, std::string text) {
    sheet.width = std::max(sheet.width, x + text.size() * kCharacterWidth + kMargin);
    sheet.lines.push_back({{x, y}, std::move(text)});
    y += kLineHeight;
  };
  const auto draw = [&](Sheet::Point* at, const Grid& grid) {
    *at = {kMargin, y};
    sheet.width = std::max(sheet.width, grid.columns + 2 * kMargin);
    y += grid.rows + kMargin;
  };
  write(kMargin, Caption(picture, "pixel"));
  draw(&sheet.ram, picture.ram);
  if (picture.templates.rows > 0) {
    write(kMargin, TemplateCaption(picture));
    draw(&sheet.templates, picture.templates);
  }
  for (LegendLine& line : LegendLines(picture)) {
    sheet.swatches.push_back({{kMargin, y}, line.colour});
    write(2 * kMargin + kSwatch, std::move(line.text));
  }
  sheet.height = y + kMargin;
  return sheet;
}

}  // namespace moult::ctl
