// SPDX-License-Identifier: Apache-2.0
#include "ledger_changes.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "report.h"

namespace moult::ctl {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

Ledger Parsed(const Json& report) {
  const absl::StatusOr<Ledger> ledger = ParseLedger(report);
  EXPECT_TRUE(ledger.ok()) << ledger.status();
  return ledger.ok() ? *ledger : Ledger();
}

Json WithRuns(const std::vector<Json>& runs) {
  Json report = Report();
  report["runs"] = runs;
  return report;
}

// "first+pages:class>class", "-" where it is not told of.
std::vector<std::string> Told(const Ledger& before, const Ledger& now, uint64_t function = 0) {
  const LedgerChanges changes(before, now, function);
  std::vector<std::string> told;
  const auto name = [](const Ledger& ledger, const PageRun* run) {
    return run != nullptr ? ledger.class_names[run->page_class] : "-";
  };
  for (const LedgerChange& change : changes.changes()) {
    told.push_back(absl::StrCat(change.gpa / kPageBytes, "+", change.length / kPageBytes, ":",
                                name(before, change.before), ">", name(now, change.now)));
  }
  return told;
}

// Of process 312, from `va` on.
Json Mapped(uint64_t gpa, uint64_t pages, uint64_t va, uint64_t flags = 0) {
  Json row = RunRow(gpa, pages, kUserPrivate, 4, flags);
  row[5] = 312;
  row[6] = va;
  return row;
}

TEST(LedgerChanges, AreOfPagesThatAreAnothersOrSomethingElse) {
  const Ledger before = Parsed(ReportOf({{kUserPrivate, 4}, {kFree, 4}, {kSystem, 8}}));
  const Ledger now =
      Parsed(ReportOf({{kUserPrivate, 2}, {kFree, 2}, {kUserShared, 1}, {kFree, 3}, {kSystem, 8}}));
  EXPECT_THAT(Told(before, now), ElementsAre("2+2:user_private>free", "4+1:free>user_shared"));
  EXPECT_THAT(Told(before, before), IsEmpty());
}

TEST(LedgerChanges, AreOfPagesThatAreAtAnotherAddress) {
  const Ledger before = Parsed(WithRuns({Mapped(0, 4, 0x10000)}));
  EXPECT_THAT(Told(before, Parsed(WithRuns({Mapped(0, 2, 0x10000), Mapped(8192, 2, 0x12000)}))), IsEmpty())
      << "the same, told of in two pieces";
  EXPECT_THAT(Told(before, Parsed(WithRuns({Mapped(0, 2, 0x10000), Mapped(8192, 2, 0x90000)}))),
              ElementsAre("2+2:user_private>user_private"));
  EXPECT_THAT(Told(before, Parsed(WithRuns({Mapped(0, 4, 0x10000, 1 << 8)}))), IsEmpty())
      << "out, but the same page";
}

TEST(LedgerChanges, GoByNames_WhenTheEarlierReportIsAnotherVersions) {
  const Ledger now = Parsed(ReportOf({{kUserPrivate, 2}, {kFree, 2}}));
  Json other = ReportOf({{kUserPrivate, 2}, {kFree, 2}});
  other["class_names"] = {"free", "gone", "user_private", "template"};
  other["runs"][0][2] = 2;
  other["runs"][1][2] = 0;
  EXPECT_THAT(Told(Parsed(other), now), IsEmpty());
  other["runs"][1][2] = 1;
  EXPECT_THAT(Told(Parsed(other), now), ElementsAre("2+2:gone>free"));
}

TEST(LedgerChanges, AreNotOfTemplates_WhichAreNoRam) {
  const Ledger before = Parsed(ReportOf({{kUserPrivate, 2}, {kTemplate, 2}}));
  const Ledger now = Parsed(ReportOf({{kUserPrivate, 2}, {kTemplate, 8}}));
  EXPECT_THAT(Told(before, now), IsEmpty());
}

TEST(LedgerChanges, AreOfOneFunction_WhenAskedFor) {
  const Ledger before = Parsed(
      WithRuns({RunRow(0, 1, kUserPrivate, 4), RunRow(4096, 1, kUserPrivate, 7), RunRow(8192, 2, kFree)}));
  const Ledger now = Parsed(WithRuns({RunRow(0, 1, kFree), RunRow(4096, 1, kFree),
                                      RunRow(8192, 1, kUserPrivate, 4), RunRow(12288, 1, kUserPrivate, 7)}));
  EXPECT_THAT(Told(before, now, 4), ElementsAre("0+1:user_private>free", "2+1:free>user_private"));
  EXPECT_THAT(Told(before, now, 99), IsEmpty());
  // An earlier report of that function alone does not tell of others' pages.
  EXPECT_THAT(Told(Parsed(WithRuns({RunRow(0, 1, kUserPrivate, 4)})), now, 4),
              ElementsAre("0+1:user_private>free", "2+1:->user_private"));
  EXPECT_THAT(LedgerChanges(before, now, 4).functions(), ElementsAre(4));
  EXPECT_THAT(LedgerChanges(before, now, 99).functions(), IsEmpty());
}

TEST(LedgerChanges, AreToldInTables) {
  Json later =
      WithRuns({RunRow(0, 1, kUserPrivate, 4), RunRow(4096, 3, kFree), RunRow(16384, 1, kUserPrivate, 9)});
  later["classes"]["free"] = 32768;
  later["functions"][0]["user_private"] = 4096;
  later["functions"][1] = {{"id", 9}, {"name", "new"}, {"user_private", 4096}, {"offloaded", 0}};
  const Ledger before = Parsed(WithRuns({RunRow(0, 4, kUserPrivate, 4), RunRow(16384, 1, kFree)}));
  const Ledger now = Parsed(later);
  const LedgerChanges changes(before, now, 0);
  const std::string text = changes.Text(false);
  EXPECT_THAT(text, HasSubstr("16.0 KiB of 64.0 KiB of guest RAM have changed\n"));
  EXPECT_THAT(text, HasSubstr("free          28.0 KiB  32.0 KiB  +4096 B\n"));
  EXPECT_THAT(text, HasSubstr("FUNCTION  NAME     BEFORE     NOW   CHANGE  OUT BEFORE  OUT NOW\n"
                              "       4  thumb  12.0 KiB  4096 B  -8192 B      4096 B   4096 B\n"
                              "       7  web      4096 B       -  -4096 B           -        -\n"
                              "       9  new           -  4096 B  +4096 B           -      0 B\n"));
  EXPECT_THAT(
      text, HasSubstr("   BYTES  WAS                                  IS\n"
                      "12.0 KiB  user_private (anonymous) of 4 thumb  free (anonymous)\n"
                      "  4096 B  free (anonymous)                     user_private (anonymous) of 9 new\n"));
  EXPECT_THAT(text, Not(HasSubstr("GPA")));
  EXPECT_THAT(text, Not(HasSubstr("another address")));
  EXPECT_THAT(
      changes.Text(true),
      HasSubstr("   GPA  LENGTH  WAS                                  IS\n"
                "0x1000  0x3000  user_private (anonymous) of 4 thumb  free (anonymous)\n"
                "0x4000  0x1000  free (anonymous)                     user_private (anonymous) of 9 new\n"));
}

TEST(LedgerChanges, AreToldOfPagesThatMoved) {
  const Ledger before = Parsed(WithRuns({Mapped(0, 4, 0x10000)}));
  const Ledger now = Parsed(WithRuns({Mapped(0, 4, 0x20000)}));
  const std::string text = LedgerChanges(before, now, 4).Text(true);
  EXPECT_THAT(text,
              HasSubstr("16.0 KiB of 64.0 KiB of guest RAM have changed and were or are of function 4\n"));
  EXPECT_THAT(text, Not(HasSubstr("CLASS")));
  EXPECT_THAT(text, HasSubstr("WAS and IS the same: at another address, or of another process.\n"));
  EXPECT_THAT(text, HasSubstr("of 4 thumb, at 0x10000 of process 312  user_private (anonymous) of 4 thumb, "
                              "at 0x20000 of process 312\n"));
}

TEST(LedgerChanges, AreToldAsJson) {
  const Ledger before = Parsed(WithRuns({Mapped(0, 4, 0x10000)}));
  const Ledger now = Parsed(WithRuns({Mapped(0, 2, 0x10000), RunRow(8192, 1, kFree)}));
  const LedgerChanges changes(before, now, 0);
  const Json told = changes.ToJson(true);
  EXPECT_EQ(told["changed_bytes"], 8192);
  EXPECT_EQ(told["classes"]["free"], Json::parse(R"({"before_bytes":28672,"bytes":28672})"));
  EXPECT_EQ(told["functions"][0], Json::parse(R"({"id":4,"name":"thumb","before_bytes":12288,"bytes":12288,
      "before_offloaded_bytes":4096,"offloaded_bytes":4096})"));
  EXPECT_EQ(told["changes"].size(), 2u);
  EXPECT_EQ(told["runs"], Json::parse(R"([
      {"gpa":8192,"length":4096,"before":{"class":"user_private","kind":"anonymous","function":4,"function_name":"thumb","pid":312,"va":73728},
       "now":{"class":"free","kind":"anonymous","function":0,"function_name":"","pid":0,"va":0}},
      {"gpa":12288,"length":4096,"before":{"class":"user_private","kind":"anonymous","function":4,"function_name":"thumb","pid":312,"va":77824},
       "now":null}])"));
  EXPECT_FALSE(changes.ToJson(false).contains("runs"));
  EXPECT_FALSE(LedgerChanges(before, now, 4).ToJson(false).contains("classes"))
      << "what all have is no function's";
}

class ReadReportTest : public ::testing::Test {
 protected:
  const std::string path_ = absl::StrCat(::testing::TempDir(), "/report-", getpid(), ".json");
  ~ReadReportTest() override { std::filesystem::remove(path_); }
  absl::Status Read(const std::string& text) {
    std::ofstream(path_) << text;
    return ReadReport(path_).status();
  }
};

TEST_F(ReadReportTest, TakesWhatPagesHasPrinted) {
  std::ofstream(path_) << ReportOf({{kUserPrivate, 4}, {kFree, 4}}).dump() << "\n";
  const absl::StatusOr<Ledger> ledger = ReadReport(path_);
  ASSERT_TRUE(ledger.ok()) << ledger.status();
  EXPECT_EQ(ledger->runs.size(), 2u);
}

TEST_F(ReadReportTest, RefusesWhatIsNoReport) {
  const std::pair<std::string, const char*> files[] = {
      {"", "is empty"},
      {"pages: 5\n", "is no JSON"},
      {"[]", "is no object"},
      {R"({"functions":[]})", "ram_bytes is no whole number"},
      {Report().dump(), "has no runs"},
      {ReportOf({{kFree, 1}}).dump().substr(1), "is no JSON"}};
  for (const auto& [text, why] : files) {
    const absl::Status status = Read(text);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << text;
    EXPECT_THAT(std::string(status.message()),
                HasSubstr(absl::StrCat("--against ", path_, ": no report of pages: ")));
    EXPECT_THAT(std::string(status.message()), HasSubstr(why));
    EXPECT_THAT(std::string(status.message()), HasSubstr("moultctl pages --json --runs"));
  }
}

TEST_F(ReadReportTest, NamesAFileThatCannotBeRead) {
  const absl::Status none = ReadReport(path_).status();
  EXPECT_EQ(none.code(), absl::StatusCode::kNotFound) << none;
  EXPECT_THAT(std::string(none.message()), HasSubstr(path_));
  EXPECT_THAT(std::string(ReadReport(::testing::TempDir()).status().message()), HasSubstr("read"));
}

}  // namespace
}  // namespace moult::ctl
