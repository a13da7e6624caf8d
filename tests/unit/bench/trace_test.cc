// SPDX-License-Identifier: Apache-2.0
#include "replay/trace.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

namespace moult::bench {
namespace {

using ::testing::HasSubstr;

struct Recorder : TraceSink {
  absl::Status AddFunction(const TraceFunction& function) override {
    functions.push_back(function);
    return absl::OkStatus();
  }
  absl::Status Invoke(const Invocation& invocation) override {
    invocations.push_back(invocation);
    return absl::OkStatus();
  }
  absl::Status End(Micros at) override {
    end = at;
    return absl::OkStatus();
  }
  std::vector<TraceFunction> functions;
  std::vector<Invocation> invocations;
  Micros end{-1};
};

class TraceFileTest : public ::testing::Test {
 protected:
  void SetUp() override {
    path_ = ::testing::TempDir() + "moult-trace-" +
            ::testing::UnitTest::GetInstance()->current_test_info()->name();
  }
  void TearDown() override { std::filesystem::remove(path_); }
  absl::Status Read(const std::string& text) {
    std::ofstream(path_) << text;
    return ReadTrace(path_, read_);
  }

  std::string path_;
  Recorder read_;
};

TEST_F(TraceFileTest, Read_GivesWhatIsWritten) {
  ASSERT_TRUE(Read("moult-trace,1\n# comment\n\nf,0,10,20,30\nf,1,1,2,3,4500,timer\n"
                   "i,0,0,7\ni,0,1,8\nf,2,0,0,0,,http\ni,99,2,0\nend,100\n")
                  .ok());
  ASSERT_EQ(read_.functions.size(), 3u);
  EXPECT_EQ(read_.functions[0].bytes[Segment::kRuntime], 10u << 10);
  EXPECT_EQ(read_.functions[0].bytes[Segment::kInit], 20u << 10);
  EXPECT_EQ(read_.functions[0].bytes[Segment::kExec], 30u << 10);
  EXPECT_EQ(read_.functions[0].cold_start, Micros(0));
  EXPECT_EQ(read_.functions[1].cold_start, Micros(4500));
  EXPECT_EQ(read_.functions[1].trigger, Trigger::kTimer);
  EXPECT_EQ(read_.functions[2].trigger, Trigger::kHttp);
  ASSERT_EQ(read_.invocations.size(), 3u);
  EXPECT_EQ(read_.invocations[1].function, 1u);
  EXPECT_EQ(read_.invocations[1].duration, Micros(8));
  EXPECT_EQ(read_.invocations[2].at, Micros(99));
  EXPECT_EQ(read_.end, Micros(100));
}

TEST_F(TraceFileTest, Writer_AndReader_AreInverse) {
  auto writer = TraceWriter::Create(path_);
  ASSERT_TRUE(writer.ok()) << writer.status();
  TraceFunction function;
  function.bytes = {{1 << 20, 2 << 20, 3 << 20}};
  function.cold_start = Micros(5);
  function.trigger = Trigger::kQueue;
  ASSERT_TRUE((*writer)->Comment("by a test").ok());
  ASSERT_TRUE((*writer)->AddFunction(function).ok());
  // More than one buffer of the reader's.
  constexpr int kCount = 200'000;
  for (int i = 0; i < kCount; ++i) {
    ASSERT_TRUE((*writer)->Invoke({Micros(i * 1000), 0, Micros(i % 7)}).ok());
  }
  ASSERT_TRUE((*writer)->End(Micros(kCount * 1000)).ok());
  ASSERT_TRUE(ReadTrace(path_, read_).ok());
  EXPECT_EQ(read_.functions.at(0).bytes.values, function.bytes.values);
  EXPECT_EQ(read_.functions.at(0).cold_start, Micros(5));
  EXPECT_EQ(read_.functions.at(0).trigger, Trigger::kQueue);
  ASSERT_EQ(read_.invocations.size(), static_cast<size_t>(kCount));
  for (int i = 0; i < kCount; ++i) {
    ASSERT_EQ(read_.invocations[static_cast<size_t>(i)].at, Micros(i * 1000));
    ASSERT_EQ(read_.invocations[static_cast<size_t>(i)].duration, Micros(i % 7));
  }
}

TEST_F(TraceFileTest, Read_NamesLineAndFault) {
  const std::string begin = "moult-trace,1\nf,0,1,1,1\n";
  const struct {
    std::string text;
    absl::StatusCode code;
    const char* message;
  } kBad[] = {
      {"", absl::StatusCode::kInvalidArgument, "it is empty"},
      {"f,0,1,1,1\n", absl::StatusCode::kInvalidArgument, "line 1: it is no trace; the first line must be"},
      {"moult-trace,2\n", absl::StatusCode::kUnimplemented, "line 1: it is a trace of version 2"},
      {"moult-trace,1\n", absl::StatusCode::kDataLoss, "stops after line 1 without \"end,TIME_US\""},
      {begin + "i,5,0,", absl::StatusCode::kInvalidArgument, "line 3: DURATION_US is \"\""},
      {begin + "i,5,0,1\n", absl::StatusCode::kDataLoss, "stops after line 3"},
      {begin + "i,5,0\n", absl::StatusCode::kInvalidArgument, "line 3: it must be i,TIME_US,FUNCTION"},
      {begin + "i,5,0,1,2\n", absl::StatusCode::kInvalidArgument, "line 3: it must be i,TIME_US,FUNCTION"},
      {begin + "i,-5,0,1\n", absl::StatusCode::kInvalidArgument, "line 3: TIME_US is \"-5\""},
      {begin + "i,1.5,0,1\n", absl::StatusCode::kInvalidArgument, "must be a whole number from 0 to"},
      {begin + "i,99999999999999999999,0,1\n", absl::StatusCode::kInvalidArgument, "line 3: TIME_US is"},
      {begin + "i,5,1,1\n", absl::StatusCode::kInvalidArgument,
       "line 3: function 1 is invoked before its own line"},
      {begin + "i,5,0,1\ni,4,0,1\n", absl::StatusCode::kInvalidArgument,
       "line 4: time goes back, from 5 to 4"},
      {begin + "i,5,0,1\nend,4\n", absl::StatusCode::kInvalidArgument, "line 4: time goes back"},
      {begin + "f,0,1,1,1\n", absl::StatusCode::kInvalidArgument,
       "line 3: functions are numbered in order: this one is 1, not 0"},
      {begin + "f,1,1,1\n", absl::StatusCode::kInvalidArgument, "line 3: it must be f,NUMBER,RUNTIME_KIB"},
      {begin + "f,1,1,x,1\n", absl::StatusCode::kInvalidArgument, "line 3: INIT_KIB is \"x\""},
      {begin + "f,1,1,1,9999999999\n", absl::StatusCode::kInvalidArgument, "line 3: EXEC_KIB is"},
      {begin + "f,1,1,1,1,2,cron\n", absl::StatusCode::kInvalidArgument, "line 3: TRIGGER is \"cron\""},
      {begin + "x\n", absl::StatusCode::kInvalidArgument, "line 3: it begins with none of"},
      {begin + "end,9\ni,10,0,1\n", absl::StatusCode::kInvalidArgument,
       "line 4: the trace has ended already"},
      {begin + std::string(3 << 20, 'i'), absl::StatusCode::kInvalidArgument,
       "line 3: it is longer than any line"},
  };
  for (const auto& bad : kBad) {
    const absl::Status status = Read(bad.text);
    EXPECT_EQ(status.code(), bad.code) << bad.text.substr(0, 99) << ": " << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr(bad.message));
    EXPECT_THAT(std::string(status.message()), HasSubstr("read trace " + path_));
  }
}

TEST(TraceTest, Read_SaysThatThereIsNoFile) {
  Recorder read;
  const absl::Status status = ReadTrace("/nowhere/x.trace", read);
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(status.message()), HasSubstr("read trace /nowhere/x.trace: ENOENT"));
}

TEST(TraceTest, Writer_SaysThatTheDiskIsFull) {
  if (!std::filesystem::exists("/dev/full")) GTEST_SKIP() << "there is no /dev/full";
  auto writer = TraceWriter::Create("/dev/full");
  ASSERT_TRUE(writer.ok());
  const absl::Status status = (*writer)->End(Micros(1));
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(status.message()), HasSubstr("write trace /dev/full: ENOSPC"));
}

}  // namespace
}  // namespace moult::bench
