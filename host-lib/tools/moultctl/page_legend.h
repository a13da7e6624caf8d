// SPDX-License-Identifier: Apache-2.0
//
// The words beside a picture of memory.
#ifndef MOULT_TOOLS_MOULTCTL_PAGE_LEGEND_H_
#define MOULT_TOOLS_MOULTCTL_PAGE_LEGEND_H_

#include <string>
#include <vector>

#include "page_picture.h"

namespace moult::ctl {

struct LegendLine {
  Colour colour;
  char letter = ' ';
  std::string text;
};
// As many as fit a page; what remains is in the last one.
std::vector<LegendLine> LegendLines(const Picture& picture);
// "1024.0 MiB of guest RAM; a cell is 2 pages (8192 B)".
std::string Caption(const Picture& picture, const char* cell);
std::string TemplateCaption(const Picture& picture);

}  // namespace moult::ctl

#endif  // MOULT_TOOLS_MOULTCTL_PAGE_LEGEND_H_
