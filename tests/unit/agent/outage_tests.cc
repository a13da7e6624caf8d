// SPDX-License-Identifier: Apache-2.0
//
// A host that vanishes, or an agent that ends, at each moment of a verb: what was half-made goes, and
// functions run on.
#include <gmock/gmock.h>
#include <poll.h>
#include <signal.h>

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "daemon.h"
#include "proc/read.h"

namespace moult::agent {
namespace {

using rpc::CaptureOutcome;
using rpc::FunctionState;
using ::testing::HasSubstr;

class OutageTest : public AgentTest {
 protected:
  void AwaitNone(Client& client) {
    const auto until = Soon();
    size_t known = 1;
    while (known != 0 && rpc::Clock::now() < until) {
      const auto list = client.Call(rpc::ListT{});
      ASSERT_TRUE(list.ok()) << list.status();
      known = (*list)->body.AsListReply()->functions.size();
      if (known != 0) poll(nullptr, 0, 20);
    }
    EXPECT_EQ(known, 0u);
  }
  // `client`'s connection, on which the agent then waits for the host to take what the function had.
  void BeginDetach(Client& client, uint64_t function) {
    rpc::DetachT detach;
    detach.function = function;
    const auto done = client.Call(std::move(detach));
    ASSERT_TRUE(done.ok()) << done.status();
  }
  void BeginCapture(Client& client, uint64_t function) {
    rpc::CaptureT capture;
    capture.function = function;
    capture.mode = rpc::PageMode::Copy;
    const auto call = client.channel.Send(rpc::MakeRequest(std::move(capture)), Soon());
    ASSERT_TRUE(call.ok()) << call.status();
    const auto report = client.channel.ReceiveResponse(*call, Soon());
    ASSERT_TRUE(report.ok()) << report.status();
    std::vector<std::byte> pages((*report)->body.AsCaptureReport()->pages_size);
    ASSERT_TRUE(client.channel.ReceiveData(*call, absl::MakeSpan(pages), Soon()).ok());
  }
  // Found by a new agent, perhaps as lost for a moment; it runs, and all can be done with it.
  void ExpectWell(uint64_t function) {
    KillAgent(SIGKILL);
    StartAgent();
    const auto client = Connect();
    AwaitState(*client, function, FunctionState::Running);
    EXPECT_EQ(Ask(function), "1");
    // The earlier agent's worker gives up when it notices.
    auto taken = CaptureCopy(*client, function, CaptureOutcome::Resume);
    for (const auto until = Soon(); !taken.ok() && rpc::Clock::now() < until;) {
      poll(nullptr, 0, 50);
      taken = CaptureCopy(*client, function, CaptureOutcome::Resume);
    }
    ASSERT_TRUE(taken.ok()) << taken.status();
    EXPECT_EQ(Ask(function), "2");
    rpc::KillT kill;
    kill.function = function;
    EXPECT_TRUE(client->Call(std::move(kill)).ok());
  }
};

TEST_F(OutageTest, Run_IsUndone_WhenTheHostGoes) {
  StartAgent();
  const auto client = Connect();
  {
    const auto other = Connect();
    rpc::RunT run;
    run.spec = std::make_unique<rpc::FunctionSpecT>(CounterSpec());
    run.spec->argv = {"/usr/bin/sleep", "600"};  // It never listens.
    ASSERT_TRUE(other->channel.Send(rpc::MakeRequest(std::move(run)), Soon()).ok());
    const auto until = Soon();
    size_t known = 0;
    while (known == 0 && rpc::Clock::now() < until) {
      const auto list = client->Call(rpc::ListT{});
      ASSERT_TRUE(list.ok()) << list.status();
      known = (*list)->body.AsListReply()->functions.size();
    }
    ASSERT_EQ(known, 1u);
  }
  AwaitNone(*client);
}

TEST_F(OutageTest, Attach_IsUndone_WhenTheHostGoesInItsPages) {
  StartAgent();
  const auto client = Connect();
  const uint64_t function = RunCounter(*client);
  const auto taken = CaptureCopy(*client, function, CaptureOutcome::End);
  ASSERT_TRUE(taken.ok()) << taken.status();
  rpc::ForgetT forget;
  forget.function = function;
  ASSERT_TRUE(client->Call(std::move(forget)).ok());
  for (const size_t part : {size_t{0}, size_t{4096}, taken->pages.size() / 2}) {
    {
      const auto other = Connect();
      const auto id = other->channel.Send(rpc::MakeRequest(AttachOf(*taken)), Soon());
      ASSERT_TRUE(id.ok()) << id.status();
      ASSERT_TRUE(other->channel.SendData(*id, absl::MakeSpan(taken->pages).first(part), Soon()).ok());
    }
    AwaitNone(*client);
  }
  EXPECT_TRUE(AttachStream(*client, *taken).ok());
}

TEST_F(OutageTest, Attach_InShort_IsRefused_WhenTheTemplateIsNotKept) {
  StartAgent();
  const auto client = Connect();
  rpc::AttachT attach;
  attach.name = "t";
  attach.spec = std::make_unique<rpc::FunctionSpecT>();
  attach.spec->name = "f";
  attach.spec->argv = {"/bin/true"};
  attach.source = rpc::PageSource::Window;
  attach.pages_size = 4096;
  attach.digest.assign(32, 1);
  const auto reply = client->Call(std::move(attach));
  EXPECT_EQ(reply.status().code(), absl::StatusCode::kNotFound) << reply.status();
  AwaitNone(*client);
}

// One without a template takes the first verb that is small; when it has gone, a fork does it.
TEST_F(OutageTest, WorkerThatWaits_MayBeKilled) {
  StartAgent();
  const auto client = Connect();
  for (int i = 0; i < 3; ++i) {
    const auto deadline = Soon();
    while (Workers("moult-standby").empty() && rpc::Clock::now() < deadline) sched_yield();
    const std::vector<pid_t> waiting = Workers("moult-standby");
    ASSERT_FALSE(waiting.empty());
    for (const pid_t worker : waiting) kill(worker, SIGKILL);
    // What is sent to one that is still dying is lost with it, and said to be so.
    const auto there = [&] {
      const std::vector<pid_t> now = Workers("moult-standby");
      return std::any_of(now.begin(), now.end(), [&](pid_t pid) { return std::count(waiting.begin(), waiting.end(), pid) != 0; });
    };
    while (there() && rpc::Clock::now() < deadline) sched_yield();
    const uint64_t function = RunCounter(*client);
    rpc::KillT end;
    end.function = function;
    ASSERT_TRUE(client->Call(std::move(end)).ok());
  }
}

TEST_F(OutageTest, Detach_IsDone_WhenTheHostGoes) {
  if (cgroup_root_.empty()) GTEST_SKIP() << "no cgroup v2 that can be written to";
  StartAgent();
  const auto client = Connect();
  const uint64_t function = RunCounter(*client);
  {
    const auto other = Connect();
    BeginDetach(*other, function);
  }
  EXPECT_EQ(Info(*client, function)->state, FunctionState::Ended);
  EXPECT_EQ(Info(*client, function)->end_reason, rpc::kEndReasonDetached);
  const uint64_t next = RunCounter(*client);
  EXPECT_EQ(Ask(next), "1");
}

TEST_F(OutageTest, Function_IsWell_WhenTheAgentEndsInACapture) {
  StartAgent();
  const auto client = Connect();
  const uint64_t function = RunCounter(*client);
  const auto other = Connect();
  BeginCapture(*other, function);
  ASSERT_EQ(Info(*client, function)->state, FunctionState::Capturing);
  ExpectWell(function);
}

TEST_F(OutageTest, FrozenFunction_StaysFrozen_WhenTheAgentStartsAnew) {
  if (cgroup_root_.empty()) GTEST_SKIP() << "no cgroup v2 that can be written to";
  StartAgent();
  auto client = Connect();
  const uint64_t function = RunCounter(*client);
  rpc::FreezeT freeze;
  freeze.function = function;
  ASSERT_TRUE(client->Call(std::move(freeze)).ok());
  KillAgent(SIGKILL);
  StartAgent();
  client = Connect();
  EXPECT_EQ(Info(*client, function)->state, FunctionState::Frozen);
  rpc::ThawT thaw;
  thaw.function = function;
  ASSERT_TRUE(client->Call(std::move(thaw)).ok());
  EXPECT_EQ(Ask(function), "1");
}

TEST_F(OutageTest, Function_ThatEndedMeanwhile_IsSaidToHave) {
  StartAgent();
  auto client = Connect();
  const uint64_t function = RunCounter(*client);
  const int pid = Info(*client, function)->pid;
  ASSERT_GT(pid, 0);
  KillAgent(SIGKILL);
  ASSERT_EQ(kill(pid, SIGKILL), 0);
  const auto until = Soon();
  while (kill(pid, 0) == 0 && rpc::Clock::now() < until) poll(nullptr, 0, 20);
  StartAgent();
  client = Connect();
  AwaitState(*client, function, FunctionState::Ended);
  EXPECT_THAT(Info(*client, function)->end_reason, HasSubstr("ended"));
  rpc::ForgetT forget;
  forget.function = function;
  EXPECT_TRUE(client->Call(std::move(forget)).ok());
}

}  // namespace
}  // namespace moult::agent
