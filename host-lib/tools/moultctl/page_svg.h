// SPDX-License-Identifier: Apache-2.0
#ifndef MOULT_TOOLS_MOULTCTL_PAGE_SVG_H_
#define MOULT_TOOLS_MOULTCTL_PAGE_SVG_H_

#include <string>

#include "page_picture.h"
#include "page_sheet.h"

namespace moult::ctl {

// A picture of memory as SVG: shapes, no embedded image, and text that is text. One path for each colour.
std::string EncodeSvg(const Picture& picture, const Sheet& sheet);

}  // namespace moult::ctl

#endif  // MOULT_TOOLS_MOULTCTL_PAGE_SVG_H_
