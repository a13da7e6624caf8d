// SPDX-License-Identifier: Apache-2.0
//
// The colours and letters of the page ledger's classes.
#ifndef MOULT_TOOLS_MOULTCTL_PALETTE_H_
#define MOULT_TOOLS_MOULTCTL_PALETTE_H_

#include <compare>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <utility>

namespace moult::ctl {

struct Colour {
  uint8_t r = 0, g = 0, b = 0;
  auto operator<=>(const Colour&) const = default;
};

// "#a0b1c2".
std::string HexColour(Colour colour);

// Whether pages of this class are some function's.
bool IsOfFunction(std::string_view page_class);
// One letter a class; '?' of one that we do not know.
char ClassLetter(std::string_view page_class);
// A hue for each function, a lightness for each of its classes; the rest is grey, so that functions
// stand out. By the function's id: it keeps its hue from picture to picture. `offloaded` is paler.
Colour ClassColour(std::string_view page_class, uint64_t function, bool offloaded);
// Weighted by light, not by sRGB's numbers, so that half and half looks like half from afar. One colour alone
// stays as it is.
Colour Mix(std::span<const std::pair<Colour, uint64_t>> parts);

}  // namespace moult::ctl

#endif  // MOULT_TOOLS_MOULTCTL_PALETTE_H_
