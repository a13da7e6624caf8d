// SPDX-License-Identifier: Apache-2.0
//
// A host whose connection ends in the midst of a frame or of a stream of pages.
#include <gmock/gmock.h>

#include "daemon.h"
#include "moult/protocol/frame.h"

namespace moult::agent {
namespace {

using rpc::CaptureOutcome;

using TornTest = AgentTest;

TEST_F(TornTest, Attach_LeavesNothing_WhenThePagesEndEarly) {
  StartAgent();
  const auto client = Connect();
  const auto taken = CaptureCopy(*client, RunCounter(*client), CaptureOutcome::End);
  ASSERT_TRUE(taken.ok()) << taken.status();
  for (const size_t sent : {size_t{0}, size_t{1} << 12, taken->pages.size() / 2, taken->pages.size() - 4096}) {
    auto torn = Connect();
    const auto id = torn->channel.Send(rpc::MakeRequest(AttachOf(*taken)), Soon());
    ASSERT_TRUE(id.ok()) << id.status();
    if (sent != 0) {
      ASSERT_TRUE(torn->channel.SendData(*id, {taken->pages.data(), sent}, Soon()).ok());
    }
    torn.reset();
    AwaitQuiet(*client, 1);
  }
  const auto attached = AttachStream(*client, *taken);
  ASSERT_TRUE(attached.ok()) << attached.status();
  EXPECT_EQ(Ask(*attached), "1");
}

TEST_F(TornTest, Request_CostsItsConnectionOnly_WhereverItIsCut) {
  StartAgent();
  const auto client = Connect();
  const auto taken = CaptureCopy(*client, RunCounter(*client), CaptureOutcome::Resume);
  ASSERT_TRUE(taken.ok()) << taken.status();
  const std::string payload = rpc::Serialize(rpc::MakeRequest(AttachOf(*taken)));
  const auto header = rpc::EncodeHeader({rpc::FrameKind::kRequest, 2, payload.size()});
  const std::string frame = std::string(header.data(), header.size()) + payload;
  for (const size_t length : {size_t{1}, header.size() - 1, header.size(), frame.size() / 2, frame.size() - 1}) {
    auto torn = Connect();
    const UniqueFd fd = torn->channel.TakeFd();
    for (size_t at = 0; at < length;) {
      const ssize_t n = write(fd.get(), frame.data() + at, length - at);
      ASSERT_GT(n, 0);
      at += static_cast<size_t>(n);
    }
  }
  AwaitQuiet(*client, 1);
}

TEST_F(TornTest, Capture_LetsTheFunctionGoOn_WhenItsPagesAreNotTaken) {
  StartAgent();
  const auto client = Connect();
  const uint64_t function = RunCounter(*client);
  auto torn = Connect();
  rpc::CaptureT capture;
  capture.function = function;
  capture.mode = rpc::PageMode::Copy;
  const auto id = torn->channel.Send(rpc::MakeRequest(std::move(capture)), Soon());
  ASSERT_TRUE(id.ok());
  ASSERT_TRUE(torn->channel.ReceiveResponse(*id, Soon()).ok());
  std::vector<std::byte> some(4096);
  ASSERT_TRUE(torn->channel.ReceiveData(*id, absl::MakeSpan(some), Soon()).ok());
  torn.reset();
  AwaitState(*client, function, rpc::FunctionState::Running);
  EXPECT_EQ(Ask(function), "1");
}

}  // namespace
}  // namespace moult::agent
