// SPDX-License-Identifier: Apache-2.0
//
// A host that is silent or slow: what it began ends in time and says why, and others are served meanwhile.
#include <gmock/gmock.h>
#include <poll.h>
#include <sys/socket.h>

#include <chrono>

#include "absl/strings/str_cat.h"
#include "daemon.h"
#include "moult/protocol/frame.h"

namespace moult::agent {
namespace {

using rpc::CaptureOutcome;
using rpc::FunctionState;
using ::testing::HasSubstr;

constexpr char kQuick[] = ", \"message_ms\": 2000, \"hold_ms\": 2000";
// Of the above, and of deadlines of requests: long enough to see that nothing happens.
constexpr int kLongAfterMs = 5000;

class DeadlineTest : public AgentTest {
 protected:
  static std::string FrameOf(rpc::RequestT request, uint64_t id) {
    const std::string payload = rpc::Serialize(request);
    const auto header = rpc::EncodeHeader({rpc::FrameKind::kRequest, id, payload.size()});
    return std::string(header.data(), header.size()) + payload;
  }
  static void Send(int fd, std::string_view bytes) {
    ASSERT_EQ(send(fd, bytes.data(), bytes.size(), MSG_NOSIGNAL), static_cast<ssize_t>(bytes.size()));
  }
  // Whatever another host keeps the agent waiting for.
  void ExpectServes() {
    const auto start = rpc::Clock::now();
    const auto next = Connect();
    EXPECT_TRUE(next->Call(rpc::ListT{}).ok());
    EXPECT_LT(rpc::Clock::now() - start, std::chrono::seconds(5));
  }
  std::unique_ptr<rpc::CaptureReportT> BeginCapture(Client& client, uint64_t function, uint32_t deadline_ms = 0) {
    rpc::CaptureT capture;
    capture.function = function;
    capture.mode = rpc::PageMode::Copy;
    const auto id = client.channel.Send(rpc::MakeRequest(std::move(capture), deadline_ms), Soon());
    EXPECT_TRUE(id.ok()) << id.status();
    if (!id.ok()) return nullptr;
    auto response = client.channel.ReceiveResponse(*id, Soon());
    EXPECT_TRUE(response.ok()) << response.status();
    if (!response.ok()) return nullptr;
    auto report = std::make_unique<rpc::CaptureReportT>(std::move(*(*response)->body.AsCaptureReport()));
    std::vector<std::byte> pages(report->pages_size);
    EXPECT_TRUE(client.channel.ReceiveData(*id, absl::MakeSpan(pages), Soon()).ok());
    return report;
  }
  // After the agent has let go of a capture: the function is as it was.
  void ExpectReleased(Client& capturing, uint64_t function, const std::string& said) {
    EXPECT_TRUE(ClosedByPeer(capturing.channel.fd()));
    AwaitLog(said);
    const auto next = Connect();
    AwaitState(*next, function, FunctionState::Running);
    AwaitQuiet(*next, 1);
    EXPECT_EQ(Ask(function), "1");
    EXPECT_TRUE(CaptureCopy(*next, function, CaptureOutcome::Resume).ok());
  }
};

TEST_F(DeadlineTest, HostThatSaysNothing_LosesItsPlace) {
  StartAgent(absl::StrCat(kQuick, ", \"max_connections\": 1"));
  const UniqueFd silent = ConnectRaw();
  {
    // The one place that there is, is taken.
    Client other(ConnectRaw());
    rpc::HelloT hello;
    hello.version_min = hello.version_max = 1;
    EXPECT_FALSE(other.Call(std::move(hello)).ok());
  }
  EXPECT_TRUE(ClosedByPeer(silent.get()));
  AwaitLog("closed a connection: the host did not say Hello in time");
  ExpectServes();
}

TEST_F(DeadlineTest, HostThatSaidHello_MayBeSilent) {
  StartAgent(kQuick);
  const auto client = Connect();
  poll(nullptr, 0, kLongAfterMs);
  EXPECT_TRUE(client->Call(rpc::ListT{}).ok());
}

TEST_F(DeadlineTest, Request_IsGivenUp_WhenItStops) {
  StartAgent(kQuick);
  rpc::RunT run;
  run.spec = std::make_unique<rpc::FunctionSpecT>(CounterSpec());
  const std::string frame = FrameOf(rpc::MakeRequest(std::move(run)), 2);
  for (const size_t length : {size_t{1}, rpc::kFrameHeaderSize - 1, rpc::kFrameHeaderSize, frame.size() - 1}) {
    const auto slow = Connect();
    Send(slow->channel.fd(), std::string_view(frame).substr(0, length));
    ExpectServes();
    EXPECT_TRUE(ClosedByPeer(slow->channel.fd())) << length;
  }
  EXPECT_THAT(Log(), HasSubstr("closed a connection: a request did not come whole in time"));
  const auto next = Connect();
  AwaitQuiet(*next, 0);
  EXPECT_EQ(Ask(RunCounter(*next)), "1");
}

// Each byte comes in time; the request does not.
TEST_F(DeadlineTest, Request_IsGivenUp_WhenItTrickles) {
  StartAgent(kQuick);
  const auto slow = Connect();
  const std::string frame = FrameOf(rpc::MakeRequest(rpc::ListT{}), 2);
  const auto start = rpc::Clock::now();
  size_t sent = 0;
  while (sent + 1 < frame.size() && send(slow->channel.fd(), &frame[sent], 1, MSG_NOSIGNAL) == 1) {
    ++sent;
    poll(nullptr, 0, 50);
  }
  EXPECT_LT(sent + 1, frame.size());
  EXPECT_GE(rpc::Clock::now() - start, std::chrono::milliseconds(2000));
  AwaitLog("a request did not come whole in time");
  ExpectServes();
}

TEST_F(DeadlineTest, Answer_IsGivenUp_WhenNobodyTakesIt) {
  StartAgent(kQuick);
  auto client = Connect();
  rpc::RunT run;
  run.spec = std::make_unique<rpc::FunctionSpecT>();
  run.spec->name = "long";
  run.spec->argv = {"/usr/bin/sleep", "600"};
  // More than a socket takes unread.
  for (const char* name : {"A=", "B=", "C=", "D=", "E="}) run.spec->env.push_back(name + std::string(100'000, 'x'));
  ASSERT_TRUE(client->Call(std::move(run)).ok());
  const auto deaf = Connect();
  ASSERT_TRUE(deaf->channel.Send(rpc::MakeRequest(rpc::ListT{}), Soon()).ok());
  AwaitLog("closed a connection: the host did not take an answer in time");
  EXPECT_TRUE(ClosedByPeer(deaf->channel.fd()));
  EXPECT_TRUE(client->Call(rpc::ListT{}).ok());
  ExpectServes();
}

TEST_F(DeadlineTest, Capture_LetsTheFunctionGoOn_WhenNobodyTakesItsPages) {
  StartAgent(kQuick);
  const auto client = Connect();
  const uint64_t function = RunCounter(*client);
  const auto deaf = Connect();
  rpc::CaptureT capture;
  capture.function = function;
  capture.mode = rpc::PageMode::Copy;
  ASSERT_TRUE(deaf->channel.Send(rpc::MakeRequest(std::move(capture)), Soon()).ok());
  AwaitLog("the peer did not take a message in time");
  ExpectReleased(*deaf, function, absl::StrCat("Capture of function ", function));
}

TEST_F(DeadlineTest, Capture_LetsTheFunctionGoOn_WhenItsEndDoesNotCome) {
  StartAgent(kQuick);
  const auto client = Connect();
  const uint64_t function = RunCounter(*client);
  const auto silent = Connect();
  ASSERT_NE(BeginCapture(*silent, function), nullptr);
  ExpectServes();
  ExpectReleased(*silent, function, "no CaptureEnd came in time");
}

TEST_F(DeadlineTest, Capture_LetsTheFunctionGoOn_WhenHalfOfItsEndComes) {
  StartAgent(kQuick);
  const auto client = Connect();
  const uint64_t function = RunCounter(*client);
  const std::string frame = FrameOf(rpc::MakeRequest(rpc::CaptureEndT{}), 9);
  const auto slow = Connect();
  ASSERT_NE(BeginCapture(*slow, function), nullptr);
  Send(slow->channel.fd(), std::string_view(frame).substr(0, frame.size() - 1));
  ExpectReleased(*slow, function, "no whole CaptureEnd came: the peer did not answer in time");
}

// It is never silent: it says the wrong thing over and over.
TEST_F(DeadlineTest, Capture_LetsTheFunctionGoOn_WhenOtherRequestsCome) {
  StartAgent(kQuick);
  const auto client = Connect();
  const uint64_t function = RunCounter(*client);
  const auto busy = Connect();
  ASSERT_NE(BeginCapture(*busy, function), nullptr);
  const auto until = Soon();
  absl::Status last = absl::FailedPreconditionError("");
  while (absl::IsFailedPrecondition(last) && rpc::Clock::now() < until) last = busy->Call(rpc::ListT{}).status();
  EXPECT_TRUE(absl::IsUnavailable(last)) << last;
  ExpectReleased(*busy, function, "no CaptureEnd came in time");
}

TEST_F(DeadlineTest, Capture_EndsByTheRequestsDeadline_WhenThatIsSooner) {
  StartAgent();
  const auto client = Connect();
  const uint64_t function = RunCounter(*client);
  const auto silent = Connect();
  const auto start = rpc::Clock::now();
  ASSERT_NE(BeginCapture(*silent, function, /*deadline_ms=*/8000), nullptr);
  EXPECT_TRUE(ClosedByPeer(silent->channel.fd()));
  EXPECT_LT(rpc::Clock::now() - start, std::chrono::seconds(60));
  ExpectReleased(*silent, function, "no CaptureEnd came in time");
}

TEST_F(DeadlineTest, Capture_SaysThatItsDeadlineIsOver) {
  StartAgent();
  const auto client = Connect();
  const uint64_t function = RunCounter(*client);
  rpc::CaptureT capture;
  capture.function = function;
  capture.mode = rpc::PageMode::Copy;
  const absl::Status status = client->channel.Call(rpc::MakeRequest(std::move(capture), /*deadline_ms=*/1), Soon()).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kDeadlineExceeded) << status;
  EXPECT_THAT(status.message(), HasSubstr("Capture: not done by the request's deadline"));
  // The connection is as good as before.
  EXPECT_TRUE(CaptureCopy(*client, function, CaptureOutcome::Resume).ok());
  EXPECT_EQ(Ask(function), "1");
}

TEST_F(DeadlineTest, Run_SaysThatItsDeadlineIsOver) {
  StartAgent();
  const auto client = Connect();
  rpc::RunT run;
  run.spec = std::make_unique<rpc::FunctionSpecT>(CounterSpec());
  run.spec->argv = {"/usr/bin/sleep", "600"};  // It never listens.
  const absl::Status status = client->channel.Call(rpc::MakeRequest(std::move(run), /*deadline_ms=*/5000), Soon()).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kDeadlineExceeded) << status;
  EXPECT_THAT(status.message(), HasSubstr("not ready in time"));
  AwaitQuiet(*client, 0);
}

TEST_F(DeadlineTest, Attach_IsUndone_WhenItsPagesStop) {
  StartAgent();
  const auto client = Connect();
  const uint64_t function = RunCounter(*client);
  const auto taken = CaptureCopy(*client, function, CaptureOutcome::Resume);
  ASSERT_TRUE(taken.ok()) << taken.status();
  rpc::KillT kill;
  kill.function = function;
  const std::string forged = FrameOf(rpc::MakeRequest(std::move(kill)), 7);
  const auto slow = Connect();
  const auto id = slow->channel.Send(rpc::MakeRequest(AttachOf(*taken), /*deadline_ms=*/5000), Soon());
  ASSERT_TRUE(id.ok()) << id.status();
  ASSERT_TRUE(slow->channel.SendData(*id, absl::MakeSpan(taken->pages).first(8192), Soon()).ok());
  const absl::Status status = slow->channel.ReceiveResponse(*id, Soon()).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kDeadlineExceeded) << status;
  EXPECT_THAT(status.message(), HasSubstr("receive pages, from byte 0 of"));
  // What is left of the pages, and may look like a request, is taken for none.
  (void)!send(slow->channel.fd(), forged.data(), forged.size(), MSG_NOSIGNAL);
  EXPECT_TRUE(ClosedByPeer(slow->channel.fd()));
  AwaitQuiet(*client, 1);
  EXPECT_EQ(Ask(function), "1");
  EXPECT_TRUE(AttachStream(*client, *taken).ok());
}

TEST_F(DeadlineTest, Detach_IsDone_WhenWhatMustFollowDoesNotCome) {
  if (cgroup_root_.empty()) GTEST_SKIP() << "no cgroup v2 that can be written to";
  StartAgent(kQuick);
  const auto client = Connect();
  for (const bool asks : {false, true}) {
    const uint64_t function = RunCounter(*client);
    const auto silent = Connect();
    rpc::DetachT detach;
    detach.function = function;
    ASSERT_TRUE(silent->Call(std::move(detach)).ok());
    if (asks) {
      const auto report = silent->Call(rpc::DetachPagesT{});
      ASSERT_TRUE(report.ok()) << report.status();
    }
    ExpectServes();
    EXPECT_TRUE(ClosedByPeer(silent->channel.fd()));
    AwaitLog(asks ? "no DetachEnd came in time" : "no DetachPages came in time");
    EXPECT_EQ(Info(*client, function)->state, FunctionState::Ended);
    EXPECT_EQ(Info(*client, function)->end_reason, rpc::kEndReasonDetached);
    rpc::ForgetT forget;
    forget.function = function;
    ASSERT_TRUE(client->Call(std::move(forget)).ok());
    AwaitQuiet(*client, 0);
  }
}

}  // namespace
}  // namespace moult::agent
