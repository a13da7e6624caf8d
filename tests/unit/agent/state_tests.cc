// SPDX-License-Identifier: Apache-2.0
//
// What the agent reads back of its own: a function's saved state, and a worker's report. Either may be torn,
// or of another version.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <iterator>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "function/record.h"
#include "rpc/worker.h"

namespace moult::agent {
namespace {

std::string Saved() {
  std::string folder = "/tmp/moult-state-XXXXXX";
  EXPECT_NE(mkdtemp(folder.data()), nullptr);
  Function function;
  function.folder = folder;
  function.info.id = 7;
  function.info.spec = std::make_unique<rpc::FunctionSpecT>();
  function.info.spec->name = "web";
  function.info.spec->argv = {"a"};
  function.info.state = rpc::FunctionState::Frozen;
  function.init_pid = 4711;
  function.init_start = 99;
  EXPECT_TRUE(Save(function).ok());
  std::ifstream file(folder + "/state.json");
  const std::string text(std::istreambuf_iterator<char>(file), {});
  std::filesystem::remove_all(folder);
  return text;
}

TEST(ParseState, ReadsWhatWasSaved) {
  Function function;
  const absl::Status status = ParseState(Saved(), &function);
  ASSERT_TRUE(status.ok()) << status;
  EXPECT_EQ(function.info.spec->name, "web");
  EXPECT_EQ(function.info.state, rpc::FunctionState::Frozen);
  EXPECT_EQ(function.init_pid, 4711);
  EXPECT_EQ(function.init_start, 99u);
  EXPECT_FALSE(function.shell);
}

TEST(ParseState, RefusesWhatIsTornOrOfAnotherShape) {
  const std::string good = Saved();
  for (size_t length = 0; length + 2 < good.size(); length += 7) {
    Function function;
    EXPECT_EQ(ParseState(good.substr(0, length), &function).code(), absl::StatusCode::kDataLoss) << length;
  }
  const std::pair<const char*, const char*> changes[] = {{"\"init_pid\": 4711", "\"init_pid\": \"4711\""},
                                                         {"\"init_pid\": 4711", "\"init_pid\": -1"},
                                                         {"\"init_pid\": 4711", "\"init_pid\": 4294967297"},
                                                         {"\"init_pid\"", "\"other\""},
                                                         {"\"init_start\": 99", "\"init_start\": null"},
                                                         {"\"init_start\"", "\"other\""},
                                                         {"\"info\": \"", "\"info\": \"%"},
                                                         {"\"info\": \"", "\"info\": \"AAAA"},
                                                         {"\"info\"", "\"other\""}};
  for (const auto& [from, to] : changes) {
    const std::string bad = absl::StrReplaceAll(good, {{from, to}});
    ASSERT_NE(bad, good) << from;
    Function function;
    EXPECT_EQ(ParseState(bad, &function).code(), absl::StatusCode::kDataLoss) << to;
  }
}

TEST(DecodeReport, ReadsWhatWasEncoded) {
  const Report report{.state = rpc::FunctionState::Running,
                      .pid = 7,
                      .inner_pid = 8,
                      .end_reason = "why",
                      .drop = false,
                      .done = true};
  const auto again = DecodeReport(EncodeReport(report));
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_EQ(again->state, rpc::FunctionState::Running);
  EXPECT_EQ(again->pid, 7);
  EXPECT_EQ(again->inner_pid, 8);
  EXPECT_EQ(again->end_reason, "why");
  EXPECT_FALSE(again->drop);
  EXPECT_TRUE(again->done);
  const auto bare = DecodeReport(EncodeReport({}));
  ASSERT_TRUE(bare.ok());
  EXPECT_FALSE(bare->state || bare->pid || bare->inner_pid || bare->end_reason || bare->drop || bare->done);
}

TEST(DecodeReport, RefusesWrongTypesAndNumbers) {
  for (const char* text : {"", "[]", "{\"drop\": 1}", "{\"done\": \"yes\"}", "{\"pid\": \"7\"}",
                           "{\"pid\": -1}", "{\"pid\": 4294967296}", "{\"state\": 99}", "{\"state\": null}",
                           "{\"end_reason\": 5}", "{\"other\": 5}"}) {
    EXPECT_EQ(DecodeReport(text).status().code(), absl::StatusCode::kDataLoss) << text;
  }
}

}  // namespace
}  // namespace moult::agent
