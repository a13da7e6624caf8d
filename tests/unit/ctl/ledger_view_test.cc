// SPDX-License-Identifier: Apache-2.0
#include "ledger_view.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "output.h"
#include "report.h"

namespace moult::ctl {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::MatchesRegex;
using ::testing::Not;

std::string Pages(const Json& report, bool whole = true) {
  const absl::StatusOr<Ledger> ledger = ParseLedger(report);
  return ledger.ok() ? PagesText(*ledger, whole) : std::string(ledger.status().message());
}

TEST(PagesText, ShowsClassesKindsAndFunctions) {
  const std::string text = Pages(Report());
  EXPECT_THAT(text, HasSubstr("64.0 KiB of guest RAM; beside it functions show 8192 B of templates\n"));
  EXPECT_THAT(text, HasSubstr("free          28.0 KiB  43.8  ##################\n"));
  EXPECT_THAT(text, HasSubstr("user_file          0 B   0.0  \n"));
  EXPECT_THAT(text, MatchesRegex("(.|\n)*\nanonymous[^\n]*\nslab[^\n]*\n(.|\n)*")) << "the largest first";
  EXPECT_THAT(text, Not(HasSubstr("balloon"))) << "a kind that there is none of";
  EXPECT_THAT(text, MatchesRegex("(.|\n)*\n *4  thumb  frozen   12.0 KiB     0 B   0 B    8192 B     4096 B  "
                                 "16.0 KiB  yes\n(.|\n)*"));
  EXPECT_THAT(text, MatchesRegex("(.|\n)*\n *7  web    running         -  4096 B     -         -          -  "
                                 "       -  no\n(.|\n)*"));
  EXPECT_THAT(text, HasSubstr("EXACT no: "));
  EXPECT_THAT(text, Not(HasSubstr("sum up")));
}

TEST(PagesText, ShowsSegments_WhereTheyAreTold) {
  Json report = Report();
  EXPECT_THAT(Pages(report), HasSubstr("\nFUNCTION  NAME   RUNTIME     OUT    INIT  OUT  EXEC  OUT\n"
                                       "       4  thumb   8192 B  4096 B  4096 B  0 B   0 B  0 B\n"
                                       "       7  web          -       -       -    -     -    -\n"
                                       "Private and shared pages"));
  report["functions"][0]["segments"]["init"] = "much";
  EXPECT_THAT(Pages(report), HasSubstr("       4  thumb   8192 B  4096 B     -    -   0 B  0 B\n"));
  report["functions"][0].erase("segments");
  EXPECT_THAT(Pages(report), Not(HasSubstr("RUNTIME")));
}

TEST(PagesText, SaysSo_WhenClassesDoNotSumUpToRam) {
  Json report = Report();
  report["classes"]["free"] = 4096;
  EXPECT_THAT(Pages(report), HasSubstr("The classes do not sum up to the RAM: 40960 of 65536 bytes\n"));
  EXPECT_THAT(Pages(report, /*whole=*/false), Not(HasSubstr("sum up"))) << "one function's need not";
  report["classes"]["free"] = ~uint64_t{0};
  EXPECT_THAT(Pages(report), HasSubstr("do not sum up"));
}

TEST(PagesText, ShowsAGuestWithoutRam) {
  EXPECT_THAT(Pages(Json::parse(R"({"ram_bytes":0,"classes":{}})")),
              AllOf(HasSubstr("0 B of guest RAM\n"), HasSubstr("no functions\n")));
}

TEST(RunsText, ShowsWhatARunIs) {
  Json report = Report();
  report["runs"] = {
      Json::array({0x10000, 8192, kUserFile, 2, 4, 312, 0x55d000, 0, 12288, 5, 1, 0b1'0000'0011}),
      RunRow(0x20000, 1, kFree, 0, uint64_t{1} << 63)};
  const absl::StatusOr<Ledger> ledger = ParseLedger(report);
  ASSERT_TRUE(ledger.ok()) << ledger.status();
  EXPECT_EQ(RunsText(*ledger),
            "    GPA  LENGTH  CLASS      KIND       FUNCTION  PID        VA  PROT  SEGMENT  "
            "FLAGS                     FILE\n"
            "0x10000  0x2000  user_file  file              4  312  0x55d000  r-x   runtime  "
            "dirty,accessed,offloaded  /usr/bin/python3.11+0x3000\n"
            "0x20000  0x1000  free       anonymous         -    -         -  rw-   none     "
            "bit63                     -\n");
}

TEST(WhyText, SaysTheReasonFirst) {
  const Json why = Json::parse(R"({"op":"why","ok":true,"gpa":8192,"hva":140000,"length":8192,"run_gpa":4096,
    "class":"user_file","kind":"file","function":4,"function_name":"thumb","pid":312,"comm":"py\u001bthon","va":94208,
    "path":"/x","file_offset":4096,"prot":"r-x","segment":"init","flags":["dirty","shared"],"reason":"Because."})");
  EXPECT_EQ(
      WhyText(why),
      "Because.\n\n"
      "guest-physical  0x2000\nhost-virtual    0x222e0\npart of         8192 B from 0x1000\nclass           "
      "user_file\n"
      "kind            file\nfunction        4 thumb\nprocess         312 py thon\naddress there   0x17000\n"
      "file            /x+0x1000\nprotection      r-x\nsegment         init\nflags           dirty, "
      "shared\n");
}

TEST(WhyText, LeavesOutWhatIsNotThere) {
  EXPECT_EQ(
      WhyText(Json::parse(R"({"gpa":0,"class":"free","function":0,"pid":0,"va":0,"path":"","segment":"none",
                                   "flags":[],"reason":"Nobody has it."})")),
      "Nobody has it.\n\nguest-physical  0x0\nclass           free\n");
  EXPECT_EQ(WhyText(Json::parse(R"({"gpa":"x","flags":7,"reason":[]})")), "[]\n\n");
}

TEST(Bar, IsNeverEmpty_WhenThereIsAnything) {
  EXPECT_EQ(Bar(0, 100, 10), "");
  EXPECT_EQ(Bar(1, 1'000'000, 10), "#");
  EXPECT_EQ(Bar(50, 100, 10), "#####");
  EXPECT_EQ(Bar(1000, 100, 10), "##########");
  EXPECT_EQ(Bar(1, 0, 10), "");
  EXPECT_EQ(Percent(1, 0), "100.0");
}

TEST(Table, PutsCellsAtTheRight_WhereTold) {
  EXPECT_EQ(Table({{"A", "B", "C"}, {"aa", "bbb", "cc"}}, {1, 2}), "A     B   C\naa  bbb  cc\n");
  EXPECT_EQ(Table({{"A", "B"}, {"aa", "bbb"}}), "A   B\naa  bbb\n");
}

}  // namespace
}  // namespace moult::ctl
