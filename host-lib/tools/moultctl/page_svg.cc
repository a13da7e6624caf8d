// SPDX-License-Identifier: Apache-2.0
#include "page_svg.h"

#include <map>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_replace.h"
#include "page_legend.h"

namespace moult::ctl {
namespace {

// Names come from a guest. Control characters, which XML cannot hold, are gone since they were parsed; of
// U+FFFE and U+FFFF it cannot hold either.
std::string Escape(const std::string& text) {
  return absl::StrReplaceAll(text, {{"&", "&amp;"},
                                    {"<", "&lt;"},
                                    {">", "&gt;"},
                                    {"\"", "&quot;"},
                                    {"\xef\xbf\xbe", "?"},
                                    {"\xef\xbf\xbf", "?"}});
}

bool SameColour(const Cell& a, const Cell& b) {
  return (a.pages > 0) == (b.pages > 0) && a.colour == b.colour;
}

std::string Shapes(const Grid& grid, Sheet::Point at) {
  std::map<Colour, std::string> paths;
  for (size_t y = 0; y < grid.rows; ++y) {
    for (size_t x = 0, next = 0; x < grid.columns; x = next) {
      next = x + 1;
      while (next < grid.columns && SameColour(grid.At(x, y), grid.At(next, y))) ++next;
      if (grid.At(x, y).pages > 0)
        absl::StrAppend(&paths[grid.At(x, y).colour], "M", x, " ", y, "h", next - x, "v1H", x, "z");
    }
  }
  std::string text =
      absl::StrFormat("<g transform=\"translate(%d %d)\" shape-rendering=\"crispEdges\">\n", at.x, at.y);
  for (const auto& [colour, path] : paths)
    absl::StrAppend(&text, "<path fill=\"", HexColour(colour), "\" d=\"", path, "\"/>\n");
  return text + "</g>\n";
}

}  // namespace

std::string EncodeSvg(const Picture& picture, const Sheet& sheet) {
  std::string text = absl::StrFormat(
      "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%d\" "
      "height=\"%d\" viewBox=\"0 0 %d %d\">\n<title>%s</title>\n<rect width=\"100%%\" height=\"100%%\" "
      "fill=\"#ffffff\"/>\n",
      sheet.width, sheet.height, sheet.width, sheet.height, Escape(Caption(picture, "pixel")));
  absl::StrAppend(&text, Shapes(picture.ram, sheet.ram));
  if (picture.templates.rows > 0) absl::StrAppend(&text, Shapes(picture.templates, sheet.templates));
  for (const Sheet::Swatch& swatch : sheet.swatches) {
    absl::StrAppendFormat(&text, "<rect x=\"%d\" y=\"%d\" width=\"%d\" height=\"%d\" fill=\"%s\"/>\n",
                          swatch.at.x, swatch.at.y, kSwatch, kSwatch, HexColour(swatch.colour));
  }
  // The letters of a usual monospaced font are 0.6 times as wide as they are high.
  absl::StrAppendFormat(
      &text, "<g font-family=\"monospace\" font-size=\"%d\" fill=\"#111317\" xml:space=\"preserve\">\n",
      kTextHeight);
  for (const Sheet::Line& line : sheet.lines)
    absl::StrAppendFormat(&text, "<text x=\"%d\" y=\"%d\">%s</text>\n", line.at.x,
                          line.at.y + kTextHeight * 3 / 4, Escape(line.text));
  return text + "</g>\n</svg>\n";
}

}  // namespace moult::ctl
