// SPDX-License-Identifier: Apache-2.0
#include "page_picture.h"

#include <algorithm>
#include <map>
#include <tuple>

#include "moult/base/status.h"

namespace moult::ctl {
namespace {

constexpr uint64_t CeilDivide(uint64_t a, uint64_t b) { return a / b + (a % b != 0 ? 1 : 0); }

// Which bit of a run's flags says that its content is in the pool; 0: none does.
uint64_t OffloadedBit(const Ledger& ledger) {
  const auto found = std::find(ledger.flag_names.begin(), ledger.flag_names.end(), "offloaded");
  const auto bit = static_cast<size_t>(found - ledger.flag_names.begin());
  return found == ledger.flag_names.end() || bit >= 64 ? 0 : uint64_t{1} << bit;
}

// The runs as extents of the legend's entries, which are made on the way.
class Sorter {
 public:
  explicit Sorter(const Ledger& ledger) : ledger_(ledger), offloaded_bit_(OffloadedBit(ledger)) {
    for (const FunctionPages& f : ledger.functions) names_[f.id] = f.name;
    // Entries in the order of the classes, then of the functions, wherever in memory each comes first.
    for (const PageRun& run : ledger.runs) entries_.emplace(KeyOf(run), 0);
    for (auto& [key, index] : entries_) {
      const auto& [page_class, function, offloaded] = key;
      const std::string& name = ledger.class_names[page_class];
      index = legend_.size();
      legend_.push_back({.page_class = name,
                         .function = function,
                         .function_name = function == 0 ? "" : names_[function],
                         .offloaded = offloaded,
                         .colour = ClassColour(name, function, offloaded),
                         .letter = ClassLetter(name)});
    }
    for (const PageRun& run : ledger.runs) {
      const size_t entry = entries_[KeyOf(run)];
      const uint64_t pages = run.length / kPageBytes;
      legend_[entry].pages += pages;
      (legend_[entry].page_class == kTemplateClass ? templates : ram).push_back({entry, pages});
    }
  }

  std::vector<Extent> ram, templates;
  std::vector<LegendEntry> TakeLegend() { return std::move(legend_); }

 private:
  using Key = std::tuple<size_t, uint64_t, bool>;
  Key KeyOf(const PageRun& run) const {
    // Kernel pages may name the function that causes them; they are the system's all the same.
    const bool of_function = IsOfFunction(ledger_.class_names[run.page_class]);
    return {run.page_class, of_function ? run.function : 0, of_function && (run.flags & offloaded_bit_) != 0};
  }

  const Ledger& ledger_;
  const uint64_t offloaded_bit_;
  std::map<uint64_t, std::string> names_;
  std::map<Key, size_t> entries_;
  std::vector<LegendEntry> legend_;
};

uint64_t PagesOf(std::span<const Extent> extents) {
  uint64_t pages = 0;
  for (const Extent& extent : extents) pages += extent.pages;
  return pages;
}

// What is in one cell, entry by entry. Made once, since there may be as many entries as runs.
class Weights {
 public:
  explicit Weights(const std::vector<LegendEntry>& legend) : legend_(legend), pages_(legend.size()) {}

  void Add(const Share& share) {
    if (pages_[share.entry] == 0) used_.push_back(share.entry);
    pages_[share.entry] += share.pages;
  }

  Cell Take() {
    Cell cell;
    parts_.clear();
    uint64_t most = 0;
    for (const size_t entry : used_) {
      cell.pages += pages_[entry];
      if (pages_[entry] > most) cell.entry = entry;
      most = std::max(most, pages_[entry]);
      parts_.emplace_back(legend_[entry].colour, pages_[entry]);
      pages_[entry] = 0;
    }
    used_.clear();
    cell.colour = Mix(parts_);
    return cell;
  }

 private:
  const std::vector<LegendEntry>& legend_;
  std::vector<uint64_t> pages_;
  std::vector<size_t> used_;
  std::vector<std::pair<Colour, uint64_t>> parts_;
};

Grid Fill(std::span<const Extent> extents, const std::vector<LegendEntry>& legend, uint64_t pages_per_cell,
          size_t columns, bool hilbert) {
  const size_t cells = CeilDivide(PagesOf(extents), pages_per_cell);
  Grid grid{.columns = columns, .rows = hilbert ? columns : CeilDivide(cells, columns), .cells = {}};
  grid.cells.resize(grid.columns * grid.rows);
  const std::vector<Share> shares = Divide(extents, pages_per_cell);
  Weights weights(legend);
  for (size_t i = 0; i < shares.size(); ++i) {
    weights.Add(shares[i]);
    if (i + 1 < shares.size() && shares[i + 1].cell == shares[i].cell) continue;
    size_t place = shares[i].cell;
    if (hilbert) {
      const auto [x, y] = HilbertPlace(columns, place);
      place = y * columns + x;
    }
    grid.cells[place] = weights.Take();
  }
  return grid;
}

// The side of the square, a power of two: no larger than it may be, nor than the pages need.
size_t HilbertSide(const PictureOptions& options, uint64_t pages) {
  size_t side = 1;
  while (side * 2 <= std::min(options.columns, options.max_rows) && side * side < pages) side *= 2;
  return side;
}

}  // namespace

std::pair<size_t, size_t> HilbertPlace(size_t side, size_t index) {
  size_t x = 0, y = 0;
  for (size_t s = 1; s < side; s *= 2) {
    const size_t right = index / 2 & 1;
    const size_t up = (index ^ right) & 1;
    if (up == 0) {
      if (right == 1) {
        x = s - 1 - x;
        y = s - 1 - y;
      }
      std::swap(x, y);
    }
    x += s * right;
    y += s * up;
    index /= 4;
  }
  return {x, y};
}

std::vector<Share> Divide(std::span<const Extent> extents, uint64_t pages_per_cell) {
  std::vector<Share> shares;
  shares.reserve(extents.size());
  size_t cell = 0;
  uint64_t room = pages_per_cell;
  for (const Extent& extent : extents) {
    for (uint64_t left = extent.pages; left > 0;) {
      const uint64_t part = std::min(left, room);
      shares.push_back({cell, extent.entry, part});
      left -= part;
      room -= part;
      if (room > 0) continue;
      ++cell;
      room = pages_per_cell;
    }
  }
  return shares;
}

absl::StatusOr<Picture> DrawPicture(const Ledger& ledger, const PictureOptions& options) {
  if (ledger.runs.empty()) return absl::FailedPreconditionError("map: the VM's report has no runs to draw");
  Sorter sorter(ledger);
  Picture picture;
  picture.legend = sorter.TakeLegend();
  picture.ram_pages = PagesOf(sorter.ram);
  picture.template_pages = PagesOf(sorter.templates);
  const uint64_t largest = std::max(picture.ram_pages, picture.template_pages);
  const size_t side = options.hilbert ? HilbertSide(options, largest) : 0;
  const size_t columns = options.hilbert ? side : std::max<size_t>(options.columns, 1);
  const size_t rows = options.hilbert ? side : std::max<size_t>(options.max_rows, 1);
  // By the larger of the two, so that none of them gets too many rows.
  picture.pages_per_cell = std::max<uint64_t>(CeilDivide(largest, columns * rows), 1);
  picture.ram = Fill(sorter.ram, picture.legend, picture.pages_per_cell, columns, options.hilbert);
  picture.templates = Fill(sorter.templates, picture.legend, picture.pages_per_cell, columns, false);
  return picture;
}

}  // namespace moult::ctl
