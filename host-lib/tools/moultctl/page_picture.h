// SPDX-License-Identifier: Apache-2.0
//
// Guest-physical memory as a grid of cells, each of the same number of pages: geometry and colours, for
// whatever draws them. Holes between RAM's parts take no cells; template pages, which are no RAM, have a grid
// of their own.
#ifndef MOULT_TOOLS_MOULTCTL_PAGE_PICTURE_H_
#define MOULT_TOOLS_MOULTCTL_PAGE_PICTURE_H_

#include <cstdint>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "ledger.h"
#include "palette.h"

namespace moult::ctl {

struct PictureOptions {
  size_t columns = 512;
  size_t max_rows = 512;  // cells get as many pages as it takes
  bool hilbert =
      false;  // neighbours in memory are neighbours on the plane: a square, with a side of a power of two
};

// What is drawn in one colour.
struct LegendEntry {
  std::string page_class;
  uint64_t function = 0;  // 0: no function's
  std::string function_name;
  bool offloaded = false;
  Colour colour;
  char letter = '?';
  uint64_t pages = 0;
};

struct Cell {
  uint64_t pages = 0;  // that it stands for; 0: it is not drawn
  size_t entry = 0;    // of the legend: the one that has most of it
  Colour colour;       // all that is in it, mixed by weight
  bool operator==(const Cell&) const = default;
};

struct Grid {
  size_t columns = 0;
  size_t rows = 0;
  std::vector<Cell> cells;  // row by row
  const Cell& At(size_t x, size_t y) const { return cells[y * columns + x]; }
};

struct Picture {
  uint64_t pages_per_cell = 1;
  uint64_t ram_pages = 0;
  uint64_t template_pages = 0;
  Grid ram;
  Grid templates;
  std::vector<LegendEntry> legend;  // in the order of the classes, then of the functions
};

// kFailedPrecondition when the ledger has no runs.
absl::StatusOr<Picture> DrawPicture(const Ledger& ledger, const PictureOptions& options);

// So many pages, one after the other, of the same entry.
struct Extent {
  size_t entry = 0;
  uint64_t pages = 0;
};
// A part of one cell. Rising by cell; a cell may have more than one part of the same entry.
struct Share {
  size_t cell = 0;
  size_t entry = 0;
  uint64_t pages = 0;
};
std::vector<Share> Divide(std::span<const Extent> extents, uint64_t pages_per_cell);

// Where the `index`th cell is on the Hilbert curve that fills a square; x and y.
std::pair<size_t, size_t> HilbertPlace(size_t side, size_t index);

}  // namespace moult::ctl

#endif  // MOULT_TOOLS_MOULTCTL_PAGE_PICTURE_H_
