// SPDX-License-Identifier: Apache-2.0
//
// A picture of memory as text, with its legend.
#ifndef MOULT_TOOLS_MOULTCTL_PAGE_TEXT_H_
#define MOULT_TOOLS_MOULTCTL_PAGE_TEXT_H_

#include <string>
#include <vector>

#include "page_picture.h"

namespace moult::ctl {

// In 24-bit colours, two cells a character, one above the other.
std::string AnsiPicture(const Picture& picture);
// A cell is the letter of the class that has most of it.
std::string LetterPicture(const Picture& picture);
// The rows of letters alone.
std::vector<std::string> LetterRows(const Picture& picture, const Grid& grid);

}  // namespace moult::ctl

#endif  // MOULT_TOOLS_MOULTCTL_PAGE_TEXT_H_
