// SPDX-License-Identifier: Apache-2.0
#include "control/metrics.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <regex>
#include <set>
#include <sstream>
#include <string>

namespace moult::control {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

Json Status() {
  return Json::parse(R"({
    "version": "0.1.0",
    "vm": {"name": "a \"b\"\\c\nd", "tenant": "t", "agent_version": "0.1.0", "ram_bytes": 536870912, "connections": 2,
      "operations": 1, "counters": {"operations": 17, "reclaimed_bytes": 8192},
      "windows": [{"number": 0, "length": 1073741824, "slots": [
        {"offset": 0, "length": 2097152, "template": "py", "users": [3, 4]},
        {"offset": 2097152, "length": 4194304, "template": "py", "users": []}]}],
      "pager": {"offloaded_bytes": 4096, "zero_bytes": 8192, "lost_pages": 0, "faults": 6, "fault_pages": 9,
        "prefetched_pages": 2, "pool_used_bytes": 4096, "pool_limit_bytes": 1048576, "fault_us_log2": [0, 1, 2, 3]},
      "offloaded": [{"function": 3, "offloaded_bytes": 12288, "faults": 6}]}})");
}

TEST(OpenMetricsTest, TellsWhatStatusHas) {
  const std::string text = OpenMetrics(Status());
  for (const char* line : {"moult_up 1\n", "moult_ram_bytes 536870912\n", "moult_operations_total 17\n",
                           "moult_operations_running 1\n", "moult_reclaimed_bytes_total 8192\n",
                           "moult_window_bytes{window=\"0\"} 1073741824\n",
                           "moult_template_functions{window=\"0\",offset=\"0\",template=\"py\"} 2\n",
                           "moult_template_functions{window=\"0\",offset=\"2097152\",template=\"py\"} 0\n",
                           "moult_pool_used_bytes 4096\n", "moult_offloaded_zero_bytes 8192\n",
                           "moult_faults_total 6\n", "moult_function_offloaded_bytes{function=\"3\"} 12288\n",
                           "moult_function_faults_total{function=\"3\"} 6\n"}) {
    EXPECT_THAT(text, HasSubstr(line));
  }
}

TEST(OpenMetricsTest, Buckets_AddUp_AndTheLastIsWithoutBound) {
  EXPECT_THAT(OpenMetrics(Status()), HasSubstr("moult_fault_seconds_bucket{le=\"1e-06\"} 0\n"
                                               "moult_fault_seconds_bucket{le=\"2e-06\"} 1\n"
                                               "moult_fault_seconds_bucket{le=\"4e-06\"} 3\n"
                                               "moult_fault_seconds_bucket{le=\"+Inf\"} 6\n"
                                               "moult_fault_seconds_count 6\n"));
}

TEST(OpenMetricsTest, EscapesLabels) {
  EXPECT_THAT(OpenMetrics(Status()), HasSubstr("name=\"a \\\"b\\\"\\\\c\\nd\""));
}

// The grammar's lines; each family once, its samples after it, no sample twice.
TEST(OpenMetricsTest, KeepsToTheFormat) {
  std::istringstream text(OpenMetrics(Status()));
  const std::regex comment("# (TYPE|UNIT|HELP) ([a-z0-9_]+) .+");
  const std::regex sample(R"re(([a-z0-9_]+)(\{([a-z_]+="([^"\\]|\\.)*",?)+\})? [0-9]+)re");
  std::set<std::string> families;
  std::set<std::string> samples;
  std::string family;
  std::string line;
  while (std::getline(text, line) && line != "# EOF") {
    std::smatch match;
    if (std::regex_match(line, match, comment)) {
      if (match[1] == "TYPE") {
        family = match[2];
        EXPECT_TRUE(families.insert(family).second) << line;
      }
      EXPECT_EQ(match[2], family) << line;
    } else {
      ASSERT_TRUE(std::regex_match(line, match, sample)) << line;
      EXPECT_TRUE(match[1].str().starts_with(family)) << line;
      EXPECT_TRUE(samples.insert(line.substr(0, line.rfind(' '))).second) << line;
    }
  }
  EXPECT_EQ(line, "# EOF");
  EXPECT_FALSE(std::getline(text, line));
}

TEST(OpenMetricsTest, IsDown_WithoutAVm) {
  Json status = {{"version", "0.1.0"}, {"fault", {{"message", "no RAM"}}}};
  EXPECT_THAT(OpenMetrics(status), HasSubstr("moult_up 0\n"));
  EXPECT_THAT(OpenMetrics(status), Not(HasSubstr("moult_ram_bytes")));
}

TEST(OpenMetricsTest, HasNoPager_WithoutAPool) {
  Json status = Status();
  status["vm"].erase("pager");
  status["vm"].erase("offloaded");
  EXPECT_THAT(OpenMetrics(status), Not(HasSubstr("moult_faults")));
}

}  // namespace
}  // namespace moult::control
