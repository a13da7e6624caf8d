// SPDX-License-Identifier: Apache-2.0
//
// An agent that starts anew, and what the one before it was in the midst of.
#include <gmock/gmock.h>
#include <poll.h>
#include <signal.h>

#include "daemon.h"

namespace moult::agent {
namespace {

using rpc::FunctionState;
using ::testing::HasSubstr;

class AdoptTest : public AgentTest {
 protected:
  // A connection on which the function stands still for a capture.
  std::unique_ptr<Client> BeginCapture(uint64_t function) {
    auto client = Connect();
    rpc::CaptureT capture;
    capture.function = function;
    capture.mode = rpc::PageMode::Copy;
    const auto id = client->channel.Send(rpc::MakeRequest(std::move(capture)), Soon());
    const auto response = client->channel.ReceiveResponse(*id, Soon());
    EXPECT_TRUE(response.ok()) << response.status();
    if (!response.ok()) return client;
    std::vector<std::byte> pages((*response)->body.AsCaptureReport()->pages_size);
    EXPECT_TRUE(client->channel.ReceiveData(*id, absl::MakeSpan(pages), Soon()).ok());
    return client;
  }
  std::unique_ptr<Client> BeginDetach(uint64_t function) {
    auto client = Connect();
    rpc::DetachT detach;
    detach.function = function;
    const auto done = client->Call(std::move(detach));
    EXPECT_TRUE(done.ok()) << done.status();
    return client;
  }
  // Both at once: nobody is left who could undo anything.
  void KillAgentAndWorkers() {
    const std::vector<pid_t> workers = Workers();
    ASSERT_FALSE(workers.empty());
    kill(agent_, SIGSTOP);  // It must not see its workers' ends.
    for (const pid_t worker : workers) kill(worker, SIGKILL);
    KillAgent(SIGKILL);
  }
  void Freeze(Client& client, uint64_t function) {
    rpc::FreezeT freeze;
    freeze.function = function;
    ASSERT_TRUE(client.Call(std::move(freeze)).ok());
  }
};

TEST_F(AdoptTest, Function_RunsAgain_WhenItsOldWorkerResumedIt) {
  StartAgent();
  auto client = Connect();
  const uint64_t function = RunCounter(*client);
  const auto capturing = BeginCapture(function);
  KillAgent(SIGKILL);
  StartAgent();
  client = Connect();
  AwaitState(*client, function, FunctionState::Running);
  EXPECT_EQ(Info(*client, function)->end_reason, "");
  EXPECT_EQ(Ask(function), "1");
  EXPECT_TRUE(CaptureCopy(*client, function, rpc::CaptureOutcome::Resume).ok());
}

TEST_F(AdoptTest, Function_HasEnded_WhenItsDetachDiedWithTheAgent) {
  if (cgroup_root_.empty()) GTEST_SKIP() << "this machine has no writable cgroup v2";
  for (const bool frozen : {false, true}) {
    StartAgent();
    auto client = Connect();
    const uint64_t function = RunCounter(*client);
    if (frozen) Freeze(*client, function);
    const auto detaching = BeginDetach(function);
    KillAgentAndWorkers();
    StartAgent();
    client = Connect();
    EXPECT_EQ(Info(*client, function)->state, FunctionState::Ended);
    KillAgent(SIGKILL);
  }
}

TEST_F(AdoptTest, FunctionThatWasNeverReady_Ends) {
  StartAgent();
  const auto starting = Connect();
  rpc::RunT run;
  run.spec = std::make_unique<rpc::FunctionSpecT>(CounterSpec());
  run.spec->argv = {"/bin/sleep", "100000"};
  ASSERT_TRUE(starting->channel.Send(rpc::MakeRequest(std::move(run)), Soon()).ok());
  auto client = Connect();
  const auto deadline = Soon();
  uint64_t function = 0;
  // Its pid is known once it was begun.
  while (function == 0 && rpc::Clock::now() < deadline) {
    const auto list = client->Call(rpc::ListT{});
    for (const auto& info : (*list)->body.AsListReply()->functions) {
      if (info->pid != 0) function = info->id;
    }
  }
  ASSERT_NE(function, 0u);
  KillAgentAndWorkers();
  StartAgent();
  client = Connect();
  AwaitState(*client, function, FunctionState::Ended);
  EXPECT_THAT(Info(*client, function)->end_reason, HasSubstr("the agent ended before it was ready"));
}

}  // namespace
}  // namespace moult::agent
