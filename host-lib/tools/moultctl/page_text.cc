// SPDX-License-Identifier: Apache-2.0
#include "page_text.h"

#include <optional>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "page_legend.h"

namespace moult::ctl {
namespace {

constexpr char kReset[] = "\x1b[0m";

std::string Sgr(int layer, const Colour& c) {
  return absl::StrCat("\x1b[", layer, ";2;", int{c.r}, ";", int{c.g}, ";", int{c.b}, "m");
}

// Writes the change from one character to the next only: most neighbours have the same colours.
class Pen {
 public:
  void Put(std::string* to, const Cell& upper, const Cell& lower) {
    const bool above = upper.pages > 0, below = lower.pages > 0;
    if (!above && !below) {
      Set(to, std::nullopt, std::nullopt);
      to->append(" ");
    } else if (above) {
      Set(to, upper.colour, below ? std::optional(lower.colour) : std::nullopt);
      to->append("▀");
    } else {
      Set(to, lower.colour, std::nullopt);
      to->append("▄");
    }
  }

 private:
  void Set(std::string* to, std::optional<Colour> ink, std::optional<Colour> paper) {
    if (paper != paper_) to->append(paper ? Sgr(48, *paper) : "\x1b[49m");
    if (ink && ink != ink_) to->append(Sgr(38, *ink));
    paper_ = paper;
    if (ink) ink_ = ink;
  }
  std::optional<Colour> ink_, paper_;
};

std::string AnsiGrid(const Grid& grid) {
  static const Cell kNothing;
  std::string text;
  for (size_t y = 0; y < grid.rows; y += 2) {
    Pen pen;
    for (size_t x = 0; x < grid.columns; ++x)
      pen.Put(&text, grid.At(x, y), y + 1 < grid.rows ? grid.At(x, y + 1) : kNothing);
    absl::StrAppend(&text, kReset, "\n");
  }
  return text;
}

}  // namespace

std::string AnsiPicture(const Picture& picture) {
  std::string text = absl::StrCat(Caption(picture, "half block"), "\n", AnsiGrid(picture.ram));
  if (picture.templates.rows > 0)
    absl::StrAppend(&text, TemplateCaption(picture), "\n", AnsiGrid(picture.templates));
  for (const LegendLine& line : LegendLines(picture))
    absl::StrAppend(&text, Sgr(38, line.colour), "██", kReset, " ", line.text, "\n");
  return text;
}

std::vector<std::string> LetterRows(const Picture& picture, const Grid& grid) {
  std::vector<std::string> rows;
  for (size_t y = 0; y < grid.rows; ++y) {
    std::string row;
    for (size_t x = 0; x < grid.columns; ++x) {
      const Cell& cell = grid.At(x, y);
      row.push_back(cell.pages == 0 ? ' ' : picture.legend[cell.entry].letter);
    }
    row.erase(row.find_last_not_of(' ') + 1);
    rows.push_back(std::move(row));
  }
  return rows;
}

std::string LetterPicture(const Picture& picture) {
  std::string text = absl::StrCat(Caption(picture, "letter"), "\n",
                                  absl::StrJoin(LetterRows(picture, picture.ram), "\n"), "\n");
  if (picture.templates.rows > 0)
    absl::StrAppend(&text, TemplateCaption(picture), "\n",
                    absl::StrJoin(LetterRows(picture, picture.templates), "\n"), "\n");
  for (const LegendLine& line : LegendLines(picture))
    absl::StrAppend(&text, std::string(1, line.letter), "  ", line.text, "\n");
  return text;
}

}  // namespace moult::ctl
