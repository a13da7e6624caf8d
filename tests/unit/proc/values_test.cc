// SPDX-License-Identifier: Apache-2.0
#include "proc/values.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace moult::proc {
namespace {

using ::testing::HasSubstr;

TEST(ParseHexFile, ReadsWhatKernelsWrite) {
  EXPECT_EQ(*ParseHexFile("personality", "00040000\n"), 0x40000u);
  EXPECT_EQ(*ParseHexFile("coredump_filter", "00000033\n"), 0x33u);
  EXPECT_EQ(*ParseHexFile("personality", "ffffffff\n"), 0xffffffffu);
  for (const char* text : {"", "\n", "x\n", "100000000\n", "33 44\n", "33\n44\n"}) {
    EXPECT_EQ(ParseHexFile("personality", text).status().code(), absl::StatusCode::kInternal) << text;
  }
  EXPECT_THAT(ParseHexFile("personality", "x\n").status().message(), HasSubstr("personality"));
}

TEST(ParseDecimalFile, ReadsSignedNumbers) {
  EXPECT_EQ(*ParseDecimalFile("oom_score_adj", "-1000\n"), -1000);
  EXPECT_EQ(*ParseDecimalFile("oom_score_adj", "0\n"), 0);
  for (const char* text : {"", "a\n", "4294967296\n", "1 2\n"}) EXPECT_FALSE(ParseDecimalFile("oom_score_adj", text).ok()) << text;
}

TEST(ParseSchedstatRuns, TakesTheThirdNumber) {
  EXPECT_EQ(*ParseSchedstatRuns("56482112 3201 17\n"), 17u);
  EXPECT_EQ(*ParseSchedstatRuns("0 0 0\n"), 0u);
  for (const char* text : {"", "1 2\n", "1 2 3 4\n", "1 2 -3\n"}) EXPECT_FALSE(ParseSchedstatRuns(text).ok()) << text;
}

TEST(ParseSyscall, TellsSleepersFromOthers) {
  const auto call = ParseSyscall("0 0x3 0x7ffd1fd0 0x400 0x0 0xffffffffffffffff 0x5 0x7ffd1fc8 0x7f6a31b0d992\n");
  ASSERT_TRUE(call.ok() && call->has_value());
  const SleepingCall wanted{0, {3, 0x7ffd1fd0, 0x400, 0, ~0ull, 5}, 0x7ffd1fc8, 0x7f6a31b0d992};
  EXPECT_EQ(**call, wanted);
  EXPECT_EQ(*ParseSyscall("running\n"), std::nullopt);
  EXPECT_EQ(*ParseSyscall("-1 0x7ffd1fc8 0x7f6a31b0d992\n"), std::nullopt);
  for (const char* text : {"", "-2 0x1\n", "0 0x1 0x2\n", "0 1 2 3 4 5 6 7 8\n", "0 0x1 0x2 0x3 0x4 0x5 0x6 0x7 0x8 0x9\n"}) {
    EXPECT_EQ(ParseSyscall(text).status().code(), absl::StatusCode::kInternal) << text;
  }
}

}  // namespace
}  // namespace moult::proc
