// SPDX-License-Identifier: Apache-2.0
//
// A font for the legends of PNG pictures: the machines that run VMs have none installed. Printable ASCII; for
// anything else there is a box.
#ifndef MOULT_TOOLS_MOULTCTL_BITMAP_FONT_H_
#define MOULT_TOOLS_MOULTCTL_BITMAP_FONT_H_

#include <cstddef>
#include <string_view>

namespace moult::ctl {

inline constexpr size_t kGlyphColumns = 5;
inline constexpr size_t kGlyphRows = 8;

// Whether the glyph of `c` covers this point; points outside of it are never covered.
bool Ink(char c, size_t x, size_t y);

}  // namespace moult::ctl

#endif  // MOULT_TOOLS_MOULTCTL_BITMAP_FONT_H_
