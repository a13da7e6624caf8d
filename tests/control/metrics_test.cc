// SPDX-License-Identifier: Apache-2.0
#include "control/metrics.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <regex>
#include <set>
#include <sstream>
#include <string>

#include "control/server_limits.h"

namespace moult::control {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;
using ::testing::Pair;

Json Status() {
  return Json::parse(R"({
    "version": "0.1.0",
    "vm": {"name": "a \"b\"\\c\nd", "tenant": "t", "agent_version": "0.1.0", "ram_bytes": 536870912, "connections": 2,
      "operations": 1, "counters": {"operations": 17, "reclaimed_bytes": 8192},
      "windows": [{"number": 0, "length": 1073741824, "slots": [
        {"offset": 0, "length": 2097152, "template": "py", "users": [3, 4]},
        {"offset": 2097152, "length": 4194304, "template": "py", "users": []}]}],
      "pager": {"offloaded_bytes": 4096, "zero_bytes": 8192, "lost_pages": 0, "faults": 6, "fault_pages": 9,
        "prefetched_pages": 2, "zeroed_pages": 3, "pool_used_bytes": 4096, "pool_limit_bytes": 1048576, "fault_us_log2": [0, 1, 2, 3]},
      "remote": {"faults": 12, "hits": 7, "hit_bytes": 28672, "fetched_bytes": 1310720, "prefetched_bytes": 262144,
        "prefetch_failures": 2, "unkept_bytes": 4096, "lost_slots": 1, "fault_us_log2": [1, 0, 4, 7]},
      "cache": {"used_bytes": 1576960, "limit_bytes": 268435456, "templates": 3},
      "offloaded": [{"function": 3, "offloaded_bytes": 12288, "faults": 6}]},
    "sweep": {"functions": 2, "running": false, "sweeps": 9, "failures": 3},
    "keeper": {"freezes": 4, "offloads": 5, "offloaded_bytes": 16384, "recalls": 3, "thaws": 2, "ends": 1, "failures": 0},
    "policies": [{"function": 3, "policy": "fixed:keep_alive_s=60", "state": "frozen", "requests": 0, "idle_ms": 7, "next_ms": 8,
      "segments": {"runtime": {"resident_bytes": 4096, "offloaded_bytes": 0}, "exec": {"resident_bytes": 0, "offloaded_bytes": 8192}},
      "done": {"freezes": 2, "offloads": 1, "offloaded_bytes": 8192, "recalls": 1, "thaws": 0, "ends": 0, "failures": 6}}]})");
}

TEST(OpenMetricsTest, TellsWhatStatusHas) {
  const std::string text = OpenMetrics(Status());
  for (const char* line : {"moult_up 1\n", "moult_ram_bytes 536870912\n", "moult_operations_total 17\n",
                           "moult_operations_running 1\n", "moult_reclaimed_bytes_total 8192\n",
                           "moult_window_bytes{window=\"0\"} 1073741824\n",
                           "moult_template_functions{window=\"0\",offset=\"0\",template=\"py\"} 2\n",
                           "moult_template_functions{window=\"0\",offset=\"2097152\",template=\"py\"} 0\n",
                           "moult_pool_used_bytes 4096\n", "moult_offloaded_zero_bytes 8192\n",
                           "moult_faults_total 6\n", "moult_zeroed_pages_total 3\n", "moult_function_offloaded_bytes{function=\"3\"} 12288\n",
                           "moult_remote_bytes_total{source=\"cache\"} 28672\n",
                           "moult_remote_bytes_total{source=\"pool\"} 1572864\n",
                           "moult_remote_prefetched_bytes_total 262144\n", "moult_remote_prefetch_failures_total 2\n",
                           "moult_remote_unkept_bytes_total 4096\n", "moult_remote_faults_total 12\n",
                           "moult_remote_hits_total 7\n", "moult_remote_lost_slots_total 1\n",
                           "moult_remote_cache_used_bytes 1576960\n", "moult_remote_cache_limit_bytes 268435456\n",
                           "moult_remote_cache_templates 3\n",
                           "moult_function_faults_total{function=\"3\"} 6\n", "moult_keeper_steps_total{step=\"end\"} 1\n",
                           "moult_unswept_functions 2\n", "moult_sweep_failures_total 3\n",
                           "moult_keeper_offloaded_bytes_total 16384\n",
                           "moult_policy_info{function=\"3\",policy=\"fixed:keep_alive_s=60\"} 1\n",
                           "moult_policy_state{function=\"3\",moult_policy_state=\"frozen\"} 1\n",
                           "moult_policy_state{function=\"3\",moult_policy_state=\"idle\"} 0\n",
                           "moult_policy_out_bytes{function=\"3\",segment=\"exec\"} 8192\n",
                           "moult_policy_resident_bytes{function=\"3\",segment=\"runtime\"} 4096\n",
                           "moult_policy_steps_total{function=\"3\",step=\"recall\"} 1\n",
                           "moult_policy_offloaded_bytes_total{function=\"3\"} 8192\n",
                           "moult_policy_failures_total{function=\"3\"} 6\n"}) {
    EXPECT_THAT(text, HasSubstr(line));
  }
}

TEST(OpenMetricsTest, Buckets_AddUp_AndTheLastIsWithoutBound) {
  EXPECT_THAT(OpenMetrics(Status()), HasSubstr("moult_fault_seconds_bucket{le=\"1e-06\"} 0\n"
                                               "moult_fault_seconds_bucket{le=\"2e-06\"} 1\n"
                                               "moult_fault_seconds_bucket{le=\"4e-06\"} 3\n"
                                               "moult_fault_seconds_bucket{le=\"+Inf\"} 6\n"));
  EXPECT_THAT(OpenMetrics(Status()), HasSubstr("# TYPE moult_remote_fault_seconds histogram\n"
                                               "# UNIT moult_remote_fault_seconds seconds\n"));
  EXPECT_THAT(OpenMetrics(Status()), HasSubstr("moult_remote_fault_seconds_bucket{le=\"1e-06\"} 1\n"
                                               "moult_remote_fault_seconds_bucket{le=\"2e-06\"} 1\n"
                                               "moult_remote_fault_seconds_bucket{le=\"4e-06\"} 5\n"
                                               "moult_remote_fault_seconds_bucket{le=\"+Inf\"} 12\n"));
  EXPECT_THAT(OpenMetrics(Status()), Not(HasSubstr("_count"))) << "there is no _sum";
}

TEST(OpenMetricsTest, EscapesLabels) {
  EXPECT_THAT(OpenMetrics(Status()), HasSubstr("name=\"a \\\"b\\\"\\\\c\\nd\""));
  FunctionNames names;
  names.Learn("ps", Json{{"functions", {{{"id", 3u}, {"name", "w\"e\\b\n}"}}}}});
  EXPECT_THAT(OpenMetrics(Status(), names), HasSubstr("moult_function_info{function=\"3\",name=\"w\\\"e\\\\b\\n}\"} 1\n"));
}

TEST(OpenMetricsTest, TellsNames_AndNoOtherSeriesChanges) {
  FunctionNames names;
  names.Learn("ps", Json::parse(R"({"functions": [{"id": 3, "name": "web"}, {"id": 4, "name": "thumb"}]})"));
  const std::string text = OpenMetrics(Status(), names);
  const std::string told = "# TYPE moult_function info\n";
  const size_t from = text.find(told);
  ASSERT_NE(from, std::string::npos) << text;
  const std::string last = "moult_function_info{function=\"3\",name=\"web\"} 1\nmoult_function_info{function=\"4\",name=\"thumb\"} 1\n";
  const size_t to = text.find(last, from);
  ASSERT_NE(to, std::string::npos) << text;
  EXPECT_EQ(text.substr(0, from) + text.substr(to + last.size()), OpenMetrics(Status()));
}

TEST(FunctionNamesTest, AreThoseOfTheLastList_AndOfWhatCameSince) {
  FunctionNames names;
  names.Learn("run", Json::parse(R"({"function": {"id": 3, "name": "web", "state": "running"}})"));
  names.Learn("pages", Json::parse(R"({"functions": [{"id": 9, "name": "part"}]})"));
  EXPECT_THAT(names.all(), ElementsAre(Pair(3, "web"))) << "not all functions are in the look at pages";
  names.Learn("ps", Json::parse(R"({"functions": [{"id": 4, "name": "thumb"}, {"id": 5}, {"name": "x"}, {"id": "6", "name": "y"}, 7]})"));
  EXPECT_THAT(names.all(), ElementsAre(Pair(4, "thumb")));
  names.Learn("freeze", Json::parse(R"({"function": 4})"));
  names.Learn("repurpose", Json::parse(R"({"function": {"id": 8, "name": "web"}})"));
  EXPECT_THAT(names.all(), ElementsAre(Pair(4, "thumb"), Pair(8, "web")));
  names.Learn("ps", Json::parse(R"({"functions": [{"id": 5, "name": "api"}]})"));
  EXPECT_THAT(names.all(), ElementsAre(Pair(5, "api"), Pair(8, "web"))) << "8 may have come while the list was on its way";
  names.Learn("ps", Json::parse(R"({"functions": []})"));
  EXPECT_THAT(names.all(), IsEmpty());
  names.Learn("run", Json::parse(R"({"function": {"id": 3, "name": "web"}})"));
  names.Clear();
  EXPECT_THAT(names.all(), IsEmpty());
}

TEST(FunctionNamesTest, AreNoMoreThanSoMany) {
  FunctionNames names;
  for (size_t id = 1; id <= kMaxNames + 2; ++id) names.Learn("run", Json{{"function", {{"id", id}, {"name", "f"}}}});
  EXPECT_EQ(names.all().size(), kMaxNames);
  EXPECT_EQ(names.all().begin()->first, 3u) << "the oldest are forgotten";
}

// The grammar's lines; each family once, its samples after it, no sample twice.
TEST(OpenMetricsTest, KeepsToTheFormat) {
  FunctionNames names;
  names.Learn("ps", Json{{"functions", {{{"id", 3u}, {"name", "a\"b\\c\nd,{}="}}}}});
  std::istringstream text(OpenMetrics(Status(), names));
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

TEST(OpenMetricsTest, HasTheKeepersWork_WhenNoFunctionHasAPolicyAnyMore) {
  Json status = Status();
  status["policies"] = Json::array();
  EXPECT_THAT(OpenMetrics(status), HasSubstr("moult_keeper_steps_total{step=\"offload\"} 5\n"));
  EXPECT_THAT(OpenMetrics(status), Not(HasSubstr("moult_policy")));
}

TEST(OpenMetricsTest, HasNoPager_WithoutAPool) {
  Json status = Status();
  status["vm"].erase("pager");
  status["vm"].erase("offloaded");
  EXPECT_THAT(OpenMetrics(status), Not(HasSubstr("moult_faults")));
  EXPECT_THAT(OpenMetrics(status), HasSubstr("moult_remote_faults_total 12\n"));
}

TEST(OpenMetricsTest, HasNoCache_UntilARemoteTemplateWasAttached_AndNothingRemoteWithoutAWindow) {
  Json status = Status();
  status["vm"].erase("cache");
  EXPECT_THAT(OpenMetrics(status), HasSubstr("moult_remote_faults_total 12\n"));
  EXPECT_THAT(OpenMetrics(status), Not(HasSubstr("moult_remote_cache")));
  status["vm"].erase("remote");
  EXPECT_THAT(OpenMetrics(status), HasSubstr("moult_faults_total 6\n"));
  EXPECT_THAT(OpenMetrics(status), Not(HasSubstr("moult_remote")));
}

}  // namespace
}  // namespace moult::control
