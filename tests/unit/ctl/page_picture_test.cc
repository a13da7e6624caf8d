// SPDX-License-Identifier: Apache-2.0
#include "page_picture.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <set>

#include "page_legend.h"
#include "report.h"

namespace moult::ctl {
namespace {

using ::testing::HasSubstr;

Ledger Parse(const Json& report) {
  const absl::StatusOr<Ledger> ledger = ParseLedger(report);
  EXPECT_TRUE(ledger.ok()) << ledger.status();
  return ledger.ok() ? *ledger : Ledger();
}

Picture Draw(const Ledger& ledger, const PictureOptions& options) {
  const absl::StatusOr<Picture> picture = DrawPicture(ledger, options);
  EXPECT_TRUE(picture.ok()) << picture.status();
  return picture.ok() ? *picture : Picture();
}

uint64_t PagesIn(const Grid& grid) {
  uint64_t pages = 0;
  for (const Cell& cell : grid.cells) pages += cell.pages;
  return pages;
}

// Runs of odd lengths of all classes, with holes.
Json Motley() {
  Json report = Report();
  report["runs"] = Json::array();
  uint64_t gpa = 0;
  for (uint64_t i = 0; i < 400; ++i) {
    const auto page_class = static_cast<ReportClass>(i * 7 % kTemplate);
    const uint64_t pages = 1 + i * i % 23;
    report["runs"].push_back(RunRow(gpa, pages, page_class, page_class <= kUserFile ? 4 + i % 2 * 3 : 0));
    gpa += (pages + (i % 50 == 0 ? 1000 : 0)) * kPageBytes;
  }
  report["runs"].push_back(RunRow(gpa + (1 << 30), 333, kTemplate, 4));
  return report;
}

TEST(Divide, CutsExtentsAtCells) {
  std::map<std::pair<size_t, size_t>, uint64_t> got;
  for (const Share& s : Divide(std::vector<Extent>{{0, 3}, {1, 1}, {0, 9}, {2, 1}}, 4))
    got[{s.cell, s.entry}] += s.pages;
  EXPECT_EQ(got, (std::map<std::pair<size_t, size_t>, uint64_t>{
                     {{0, 0}, 3}, {{0, 1}, 1}, {{1, 0}, 4}, {{2, 0}, 4}, {{3, 0}, 1}, {{3, 2}, 1}}));
}

TEST(Divide, LosesNoPage) {
  std::vector<Extent> extents;
  std::map<size_t, uint64_t> wanted;
  for (size_t i = 0; i < 1000; ++i) {
    extents.push_back({i % 5, i * i % 97});
    wanted[i % 5] += i * i % 97;
  }
  for (const uint64_t per_cell : {1u, 2u, 3u, 64u, 1000u, 1'000'000u}) {
    std::map<size_t, uint64_t> by_entry, by_cell;
    for (const Share& s : Divide(extents, per_cell)) {
      by_entry[s.entry] += s.pages;
      by_cell[s.cell] += s.pages;
    }
    EXPECT_EQ(by_entry, wanted);
    for (const auto& [cell, pages] : by_cell) {
      if (cell == by_cell.rbegin()->first) continue;
      EXPECT_EQ(pages, per_cell) << "cell " << cell;
    }
  }
}

TEST(Picture, StandsForEachPageOnce) {
  const Ledger ledger = Parse(Motley());
  uint64_t pages = 0;
  for (const PageRun& run : ledger.runs) pages += run.length / kPageBytes;
  for (const bool hilbert : {false, true}) {
    for (const size_t size : {8u, 16u, 40u, 512u}) {
      const Picture picture = Draw(ledger, {.columns = size, .max_rows = size, .hilbert = hilbert});
      EXPECT_EQ(PagesIn(picture.ram), pages - 333) << size;
      EXPECT_EQ(PagesIn(picture.templates), 333u) << size;
      uint64_t in_legend = 0;
      for (const LegendEntry& entry : picture.legend) in_legend += entry.pages;
      EXPECT_EQ(in_legend, pages);
      EXPECT_LE(picture.ram.rows, size);
      EXPECT_LE(picture.ram.columns, size);
    }
  }
}

TEST(Picture, EachPageHasItsColourAndPlace_WhenACellIsAPage) {
  const Ledger ledger = Parse(Motley());
  for (const bool hilbert : {false, true}) {
    const Picture picture = Draw(ledger, {.columns = 128, .max_rows = 128, .hilbert = hilbert});
    ASSERT_EQ(picture.pages_per_cell, 1u);
    const auto cell_of = [&](size_t place) {
      const auto [x, y] =
          hilbert ? HilbertPlace(picture.ram.columns, place) : std::pair(place % 128, place / 128);
      return picture.ram.At(x, y);
    };
    size_t place = 0;
    for (const PageRun& run : ledger.runs) {
      const std::string& name = ledger.class_names[run.page_class];
      if (name == "template") break;
      for (uint64_t i = 0; i < run.length / kPageBytes; ++i, ++place) {
        ASSERT_LT(place, picture.ram.cells.size());
        const Cell cell = cell_of(place);
        ASSERT_EQ(picture.legend[cell.entry].page_class, name) << place;
        ASSERT_EQ(picture.legend[cell.entry].function, IsOfFunction(name) ? run.function : 0) << place;
        ASSERT_EQ(cell.colour, ClassColour(name, run.function, false)) << place;
      }
    }
    EXPECT_EQ(place, picture.ram_pages);
    ASSERT_LT(place, picture.ram.cells.size()) << "the last row is to be not full";
    for (; place < picture.ram.cells.size(); ++place) ASSERT_EQ(cell_of(place).pages, 0u) << place;
  }
}

TEST(Picture, MixesWhatIsInACell_AndNamesTheMost) {
  const Picture picture =
      Draw(Parse(ReportOf({{kFree, 1}, {kSystem, 3}, {kUserPrivate, 4}})), {.columns = 2, .max_rows = 1});
  EXPECT_EQ(picture.pages_per_cell, 4u);
  const Cell& mixed = picture.ram.At(0, 0);
  EXPECT_EQ(picture.legend[mixed.entry].page_class, "system");
  const Colour system = ClassColour("system", 0, false), free = ClassColour("free", 0, false);
  const std::vector<std::pair<Colour, uint64_t>> parts{{free, 1}, {system, 3}};
  EXPECT_EQ(mixed.colour, Mix(parts));
  EXPECT_GT(mixed.colour.r, system.r);
  EXPECT_LT(mixed.colour.r, free.r);
  EXPECT_EQ(picture.ram.At(1, 0).colour, ClassColour("user_private", 4, false));
}

TEST(Picture, KeepsOneFunctionFromAnother_AndOffloadedApart) {
  Json report = Report();
  report["runs"] = {RunRow(0, 1, kUserPrivate, 7), RunRow(4096, 1, kUserPrivate, 4),
                    RunRow(8192, 1, kUserPrivate, 4, 256), RunRow(12288, 1, kSystem, 4),
                    RunRow(16384, 1, kSystem, 7)};
  const Picture picture = Draw(Parse(report), {});
  ASSERT_EQ(picture.legend.size(), 4u) << "system pages are one, whoever causes them";
  EXPECT_EQ(picture.legend[0].function_name, "thumb");
  EXPECT_FALSE(picture.legend[0].offloaded);
  EXPECT_TRUE(picture.legend[1].offloaded);
  EXPECT_EQ(picture.legend[2].function, 7u);
  std::set<Colour> colours;
  for (const LegendEntry& entry : picture.legend) colours.insert(entry.colour);
  EXPECT_EQ(colours.size(), 4u);
}

TEST(Picture, DrawsOneRunOfAllRam_HoweverLarge) {
  Json report = Report();
  const uint64_t pages = (uint64_t{1} << 52) / kPageBytes;  // all that can be addressed
  report["runs"] = Json::array({RunRow(0, pages, kFree)});
  for (const bool hilbert : {false, true}) {
    const Picture picture = Draw(Parse(report), {.columns = 512, .max_rows = 512, .hilbert = hilbert});
    EXPECT_EQ(PagesIn(picture.ram), pages);
    EXPECT_LE(picture.ram.cells.size(), 512u * 512u);
    EXPECT_EQ(picture.legend.size(), 1u);
  }
}

TEST(Picture, StaysWithinItsSize_WhenTemplatesAreLargerThanRam) {
  Json report = Report();
  report["runs"] = {RunRow(0, 1, kFree), RunRow(4096, uint64_t{1} << 39, kTemplate, 4)};
  const Picture picture = Draw(Parse(report), {.columns = 64, .max_rows = 64});
  EXPECT_EQ(picture.ram.rows, 1u);
  EXPECT_LE(picture.templates.rows, 64u);
  EXPECT_EQ(PagesIn(picture.templates), uint64_t{1} << 39);
}

TEST(Picture, IsRefused_WhenThereAreNoRuns) {
  const absl::Status status = DrawPicture(Parse(Report()), {}).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(status.message()), HasSubstr("no runs to draw"));
}

TEST(Picture, HasRoomForManyRuns) {
  Json report = Report();
  report["runs"] = Json::array();
  constexpr uint64_t kRuns = 200'000;
  // Each of a function of its own: the worst that a guest can say.
  for (uint64_t i = 0; i < kRuns; ++i)
    report["runs"].push_back(RunRow(i * kPageBytes, 1, kUserPrivate, i + 1));
  const Picture picture = Draw(Parse(report), {.columns = 8, .max_rows = 8});
  EXPECT_EQ(PagesIn(picture.ram), kRuns);
  const std::vector<LegendLine> lines = LegendLines(picture);
  EXPECT_EQ(lines.size(), 48u);
  EXPECT_THAT(lines.back().text, HasSubstr("and 199953 more"));
}

TEST(HilbertPlace, VisitsEachCellOnce_StepByStep) {
  for (const size_t side : {1u, 2u, 4u, 32u}) {
    std::set<std::pair<size_t, size_t>> visited;
    std::pair<size_t, size_t> last = HilbertPlace(side, 0);
    EXPECT_EQ(last, (std::pair<size_t, size_t>(0, 0)));
    for (size_t i = 0; i < side * side; ++i) {
      const auto place = HilbertPlace(side, i);
      ASSERT_LT(place.first, side);
      ASSERT_LT(place.second, side);
      const size_t step =
          (place.first > last.first ? place.first - last.first : last.first - place.first) +
          (place.second > last.second ? place.second - last.second : last.second - place.second);
      ASSERT_EQ(step, i == 0 ? 0u : 1u) << i;
      visited.insert(place);
      last = place;
    }
    EXPECT_EQ(visited.size(), side * side);
  }
}

TEST(Mix, KeepsOneColour_AndWeighsByLight) {
  const Colour black{0, 0, 0}, white{255, 255, 255}, odd{1, 77, 201};
  const auto mix = [](std::vector<std::pair<Colour, uint64_t>> parts) { return Mix(parts); };
  EXPECT_EQ(mix({{odd, 3}, {odd, ~uint64_t{0} / 2}}), odd);
  EXPECT_EQ(mix({{black, 1}, {white, 1}}), (Colour{188, 188, 188})) << "half the light";
  EXPECT_EQ(mix({{black, 0}, {white, 7}}), white);
  EXPECT_EQ(mix({}), black);
}

TEST(Palette, TellsClassesAndFunctionsApart) {
  std::set<Colour> colours;
  std::set<char> letters;
  size_t wanted = 0;
  for (const char* name :
       {"user_private", "user_shared", "user_file", "template", "system", "page_cache", "free", "reserved"}) {
    letters.insert(ClassLetter(name));
    for (uint64_t function = 1; function <= (IsOfFunction(name) ? 16u : 1u); ++function, ++wanted)
      colours.insert(ClassColour(name, function, false));
  }
  EXPECT_EQ(letters.size(), 8u);
  EXPECT_EQ(colours.size(), wanted);
  EXPECT_EQ(ClassLetter("of a later version"), '?');
}

}  // namespace
}  // namespace moult::ctl
