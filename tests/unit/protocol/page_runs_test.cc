// SPDX-License-Identifier: Apache-2.0
#include "moult/protocol/page_runs.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "moult/base/page.h"
#include "moult/protocol/message.h"

namespace moult::rpc {
namespace {

using ::testing::HasSubstr;

struct Fields {
  uint64_t gpa = 0;
  uint64_t length = kPage;
  uint64_t va = 0;
  uint64_t file_offset = 0;
  uint32_t file = 0;
  int page_class = 0;
  int kind = 0;
  uint8_t prot = 0;
  int segment = 0;
};

PageRun RunOf(const Fields& f) {
  return {f.gpa,
          f.length,
          f.va,
          f.file_offset,
          7,
          312,
          f.file,
          static_cast<PageClass>(f.page_class),
          static_cast<PageKind>(f.kind),
          f.prot,
          static_cast<Segment>(f.segment),
          PageFlag{}};
}

// Of pages 0 and 1, and 16 to 19.
PagesReportT Report() {
  PagesReportT report;
  report.ram = {GpaRun(0, 2 * kPage), GpaRun(16 * kPage, 4 * kPage)};
  report.files = {"/a"};
  report.functions.push_back(std::make_unique<PagesFunctionT>());
  report.functions[0]->id = 7;
  report.processes.push_back(std::make_unique<PagesProcessT>());
  report.processes[0]->pid = 312;
  return report;
}

std::vector<PageRun> Good() {
  return {RunOf({.gpa = 0, .length = 2 * kPage}), RunOf({.gpa = 16 * kPage, .file = 1}),
          RunOf({.gpa = 17 * kPage, .length = 3 * kPage}), RunOf({.gpa = 1 << 30, .page_class = 3}),
          RunOf({.gpa = 1 << 30, .page_class = 3})};
}

absl::Status Check(std::vector<PageRun> runs) { return CheckPageRuns(Report(), runs); }

TEST(PageRuns, AreTaken_WhenTheyAreAllOfRam) { EXPECT_TRUE(Check(Good()).ok()) << Check(Good()); }

TEST(PageRuns, AreTaken_InAReportOfOneFunction) {
  PagesReportT report = Report();
  report.ram.clear();
  const std::vector<PageRun> runs = {RunOf({.gpa = 5 * kPage})};
  EXPECT_TRUE(CheckPageRuns(report, runs).ok());
  EXPECT_TRUE(CheckPageRuns(report, {}).ok());
}

TEST(PageRuns, AreRefused_ByField) {
  const std::pair<Fields, const char*> bad[] = {
      {Fields{.gpa = 1}, "gpa: 1 is not page aligned"},
      {Fields{.length = 0}, "length: 0 is not whole pages"},
      {Fields{.length = 100}, "length: 100 is not whole pages"},
      {Fields{.gpa = UINT64_MAX - kPage + 1, .length = 2 * kPage}, "goes beyond all addresses"},
      {Fields{.gpa = (uint64_t{1} << 52) - kPage, .length = 2 * kPage}, "goes beyond all addresses"},
      {Fields{.va = 8}, "va: 8 is no place"},
      {Fields{.length = 2 * kPage, .va = UINT64_MAX - kPage + 1}, "va: "},
      {Fields{.file_offset = 7}, "file_offset: 7 is not page aligned"},
      {Fields{.file = 2}, "file: 2, there are 1"},
      {Fields{.page_class = 8}, "page_class: 8 is unknown"},
      {Fields{.kind = 16}, "kind: 16 is unknown"},
      {Fields{.prot = 8}, "prot: 8 is unknown"},
      {Fields{.segment = 4}, "segment: 4 is unknown"},
  };
  for (const auto& [fields, message] : bad) {
    const absl::Status status = Check({RunOf(fields)});
    EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss) << message;
    EXPECT_THAT(std::string(status.message()), HasSubstr("runs[0]")) << message;
    EXPECT_THAT(std::string(status.message()), HasSubstr(message));
  }
}

void ExpectRefused(std::vector<PageRun> runs, const char* message) {
  const absl::Status status = Check(std::move(runs));
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss) << message;
  EXPECT_THAT(std::string(status.message()), HasSubstr(message));
}

TEST(PageRuns, AreRefused_WhenTheyNameWhatTheReportDoesNot) {
  PagesReportT report = Report();
  report.functions.clear();
  EXPECT_THAT(std::string(CheckPageRuns(report, Good()).message()),
              HasSubstr("function: 7 is not among the report's"));
  report = Report();
  report.processes.clear();
  EXPECT_THAT(std::string(CheckPageRuns(report, Good()).message()),
              HasSubstr("pid: 312 is not among the report's"));
}

TEST(PageRuns, AreRefused_WhenTheyOverlapOrFall) {
  auto runs = Good();
  runs[1] = RunOf({.gpa = kPage});
  ExpectRefused(runs, "runs[1].gpa: 4096 is not rising");
  runs = Good();
  std::swap(runs[1], runs[2]);
  ExpectRefused(runs, "is not rising");
  runs = Good();
  runs[4] = RunOf({.gpa = 1 << 29, .page_class = 3});
  ExpectRefused(runs, "is not rising");
}

TEST(PageRuns, AreRefused_WhenRamComesAfterWindows) {
  auto runs = Good();
  std::swap(runs[2], runs[3]);
  ExpectRefused(runs, "pages of RAM come before those of windows");
}

TEST(PageRuns, AreRefused_OutsideOfWhatWasLookedAt) {
  auto runs = Good();
  runs[1] = RunOf({.gpa = 8 * kPage});
  ExpectRefused(runs, "gpa: 32768 is not in what was looked at");
  // Across the end of a range.
  runs = Good();
  runs[2] = RunOf({.gpa = 17 * kPage, .length = 4 * kPage});
  ExpectRefused(runs, "is not in what was looked at");
}

TEST(PageRuns, AreRefused_WhenSomeAreMissing) {
  auto runs = Good();
  runs.erase(runs.begin() + 1);
  ExpectRefused(runs, "20480 bytes of RAM are told of, 24576 were looked at");
}

}  // namespace
}  // namespace moult::rpc
