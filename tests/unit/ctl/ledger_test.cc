// SPDX-License-Identifier: Apache-2.0
#include "ledger.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>

#include "report.h"

namespace moult::ctl {
namespace {

using ::testing::HasSubstr;

constexpr uint64_t kFar = ~uint64_t{0} - kPageBytes + 1;  // the last page of all

TEST(LedgerParser, ParsesAReport) {
  Json report = Report();
  report["runs"] = Json::array({Json::array({4096, 8192, kUserFile, 2, 4, 312, 0x55d000, 0, 12288, 5, 1, 256})});
  const absl::StatusOr<Ledger> ledger = ParseLedger(report);
  ASSERT_TRUE(ledger.ok()) << ledger.status();
  EXPECT_EQ(ledger->ram_bytes, 65536u);
  EXPECT_EQ(ledger->template_bytes, 8192u);
  ASSERT_EQ(ledger->classes.size(), 7u);
  EXPECT_EQ(ledger->classes[5].name, "free");
  EXPECT_EQ(ledger->classes[5].bytes, 28672u);
  ASSERT_EQ(ledger->functions.size(), 2u);
  EXPECT_TRUE(ledger->functions[0].exact);
  EXPECT_EQ(ledger->functions[0].on_behalf, 16384u);
  EXPECT_EQ(ledger->functions[1].user_private, std::nullopt);
  ASSERT_EQ(ledger->runs.size(), 1u);
  const PageRun& run = ledger->runs[0];
  EXPECT_EQ(run.gpa, 4096u);
  EXPECT_EQ(run.length, 8192u);
  EXPECT_EQ(run.page_class, size_t{kUserFile});
  EXPECT_EQ(run.kind, 2u);
  EXPECT_EQ(run.function, 4u);
  EXPECT_EQ(run.pid, 312u);
  EXPECT_EQ(run.va, 0x55d000u);
  EXPECT_EQ(run.file, 0u);
  EXPECT_EQ(run.file_offset, 12288u);
  EXPECT_EQ(run.prot, 5u);
  EXPECT_EQ(run.segment, 1u);
  EXPECT_EQ(run.flags, 256u);
}

TEST(LedgerParser, FindsColumns_WhenALaterVersionHasOthersBetween) {
  Json report = Report();
  report["run_fields"] = {"new", "length",      "gpa",  "class",   "kind",  "function", "pid",
                          "va",  "file_offset", "file", "segment", "flags", "prot"};
  report["runs"] = Json::array({Json::array({"x", 8192, 4096, kFree, 0, 0, 0, 0, 0, -1, 0, 0, 2})});
  const absl::StatusOr<Ledger> ledger = ParseLedger(report);
  ASSERT_TRUE(ledger.ok()) << ledger.status();
  EXPECT_EQ(ledger->runs[0].gpa, 4096u);
  EXPECT_EQ(ledger->runs[0].length, 8192u);
  EXPECT_EQ(ledger->runs[0].prot, 2u);
  EXPECT_EQ(ledger->runs[0].file, std::nullopt);
}

TEST(LedgerParser, NamesTheMember_WhenTheReportIsOdd) {
  const struct {
    std::function<void(Json*)> spoil;
    const char* message;
  } cases[] = {
      {[](Json* r) { *r = Json::array(); }, "the answer is no object"},
      {[](Json* r) { r->erase("ram_bytes"); }, "ram_bytes is no whole number"},
      {[](Json* r) { (*r)["ram_bytes"] = -4096; }, "ram_bytes is no whole number"},
      {[](Json* r) { (*r)["ram_bytes"] = 1.5; }, "ram_bytes is no whole number"},
      {[](Json* r) { r->erase("classes"); }, "classes is no object"},
      {[](Json* r) { (*r)["classes"]["free"] = "much"; }, "classes.free is no whole number"},
      {[](Json* r) { (*r)["kinds"] = 7; }, "kinds is no object"},
      {[](Json* r) { (*r)["functions"] = Json::object(); }, "functions is no array"},
      {[](Json* r) { (*r)["functions"][1] = 7; }, "functions: one has no id"},
      {[](Json* r) { (*r)["files"] = {1}; }, "files has what is no text"},
      {[](Json* r) { (*r)["class_names"] = "free"; }, "class_names is no array"},
      {[](Json* r) { (*r)["runs"] = Json::object(); }, "runs is no array"},
  };
  for (const auto& c : cases) {
    Json report = Report();
    c.spoil(&report);
    const absl::Status status = ParseLedger(report).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss) << c.message;
    EXPECT_THAT(std::string(status.message()), HasSubstr(c.message));
  }
}

TEST(LedgerParser, NamesTheRun_WhenARunIsOdd) {
  const struct {
    std::function<void(Json*)> spoil;  // of the second run, which is of page 4
    const char* message;
  } cases[] = {
      {[](Json* r) { *r = nullptr; }, "run 1 is no array"},
      {[](Json* r) { r->erase(11); }, "run 1 has no flags"},
      {[](Json* r) { (*r)[4] = "thumb"; }, "run 1 has a function that is no whole number"},
      {[](Json* r) { (*r)[4] = -1; }, "run 1 has a function that is no whole number"},
      {[](Json* r) { (*r)[0] = 4096.0 * 4; }, "run 1 has a gpa that is no whole number"},
      {[](Json* r) { (*r)[0] = 16385; }, "run 1 is not of whole pages"},
      {[](Json* r) { (*r)[1] = 4095; }, "run 1 is not of whole pages"},
      {[](Json* r) { (*r)[1] = 0; }, "run 1 is not of whole pages"},
      {[](Json* r) { (*r)[0] = 0; }, "run 1 begins before the one before it ends"},
      {[](Json* r) { (*r)[0] = 12288; }, "run 1 begins before the one before it ends"},
      {[](Json* r) { (*r)[0] = kFar; }, "run 1 ends beyond all addresses"},
      {[](Json* r) { (*r)[1] = kFar; }, "run 1 ends beyond all addresses"},
      {[](Json* r) { (*r)[2] = 8; }, "run 1 has a class without a name"},
      {[](Json* r) { (*r)[3] = 3; }, "run 1 has a kind without a name"},
      {[](Json* r) { (*r)[7] = 1; }, "run 1 has a file without a name"},
      {[](Json* r) { (*r)[7] = -2; }, "run 1 has a file that is no whole number"},
      {[](Json* r) { (*r)[10] = uint64_t{1} << 63; }, "run 1 has a segment without a name"},
  };
  for (const auto& c : cases) {
    Json report = Report();
    report["runs"] = {RunRow(0, 4, kSystem), RunRow(4 * kPageBytes, 1, kFree)};
    ASSERT_TRUE(ParseLedger(report).ok());
    c.spoil(&report["runs"][1]);
    const absl::Status status = ParseLedger(report).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss) << c.message;
    EXPECT_THAT(std::string(status.message()), HasSubstr(c.message));
  }
}

// A window may lie below RAM, and what it has be shown to several.
TEST(LedgerParser, TakesTemplateRuns_ThatShowTheSamePages) {
  Json report = Report();
  const uint64_t far = uint64_t{1} << 33;
  report["runs"] = {RunRow(far, 4, kSystem), RunRow(kPageBytes, 2, kTemplate, 4), RunRow(kPageBytes, 2, kTemplate, 7),
                    RunRow(2 * kPageBytes, 3, kTemplate, 4)};
  const absl::StatusOr<Ledger> ledger = ParseLedger(report);
  ASSERT_TRUE(ledger.ok()) << ledger.status();
  EXPECT_EQ(ledger->runs.size(), 4u);
  report["runs"][3] = RunRow(0, 1, kTemplate, 4);
  EXPECT_THAT(std::string(ParseLedger(report).status().message()), HasSubstr("run 3 begins before the one before it ends"));
  report["runs"][3] = RunRow(far + 4 * kPageBytes, 1, kSystem);
  EXPECT_THAT(std::string(ParseLedger(report).status().message()), HasSubstr("run 3 is of RAM, and comes after templates"));
}

TEST(LedgerParser, RefusesRuns_WhoseFieldsItIsNotTold) {
  Json report = ReportOf({{kFree, 1}});
  report["run_fields"].erase(4);
  EXPECT_THAT(std::string(ParseLedger(report).status().message()), HasSubstr("run_fields lacks function"));
  report.erase("run_fields");
  EXPECT_THAT(std::string(ParseLedger(report).status().message()), HasSubstr("run_fields lacks gpa"));
}

TEST(LedgerParser, MakesNamesPrintable) {
  Json report = Report();
  report["functions"][0]["name"] =
      "a\x1b[2Jb\xc2\x9b"
      "c";
  report["files"][0] = "/x\ny";
  const absl::StatusOr<Ledger> ledger = ParseLedger(report);
  ASSERT_TRUE(ledger.ok());
  EXPECT_EQ(ledger->functions[0].name, "a [2Jb  c");
  EXPECT_EQ(ledger->files[0], "/x y");
}

TEST(LedgerParser, ParsesManyRuns_AllOfThem) {
  constexpr uint64_t kRuns = 200'000;
  Json report = Report();
  report["runs"] = Json::array();
  for (uint64_t i = 0; i < kRuns; ++i) report["runs"].push_back(RunRow(2 * i * kPageBytes, 1, kFree));
  const absl::StatusOr<Ledger> ledger = ParseLedger(report);
  ASSERT_TRUE(ledger.ok()) << ledger.status();
  EXPECT_EQ(ledger->runs.size(), kRuns);
  EXPECT_EQ(ledger->runs.back().gpa, 2 * (kRuns - 1) * kPageBytes);
}

}  // namespace
}  // namespace moult::ctl
