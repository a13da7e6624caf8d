// SPDX-License-Identifier: Apache-2.0
//
// Policies and calls by hand: whose turn it is at a function.
#include <algorithm>

#include "control/server_limits.h"
#include "server_fixture.h"

namespace moult::control {
namespace {

using ::testing::Contains;
using ::testing::Not;

// Frozen while nobody asks anything of it; with fake::kHeld the freeze is under way until Release().
void FreezeIdle(const moult_function_view& view, moult_policy_decision* decision) {
  decision->freeze = view.state == MOULT_FUNCTION_IDLE ? 1 : 0;
}

class ServerPolicyTest : public ServerTest {
 protected:
  // A policy is freezing fake::kHeld, as client_ has asked for.
  void StartFreezing() {
    fake::SetPolicy(FreezeIdle);
    StartServer();
    client_ = std::make_unique<Client>(path_);
    client_->Request(1, "policy", R"({"function":1000,"policy":"scripted"})");
    EXPECT_TRUE(client_->Answer().contains("result"));
    ASSERT_TRUE(fake::WaitForLog("freeze 1000"));
  }
  std::unique_ptr<Client> client_;
};

TEST_F(ServerPolicyTest, Policy_SeesRequestsBeginAndEnd) {
  fake::SetPolicy([](const moult_function_view& view, moult_policy_decision* decision) {
    decision->freeze = view.state == MOULT_FUNCTION_IDLE ? 1 : 0;
  });
  StartServer();
  Client other(path_);
  const auto policies = [&] {
    other.Request(9, "status");
    return other.Answer()["result"]["policies"];
  };
  other.Request(1, "policy", R"({"function":7,"policy":"no-such"})");
  EXPECT_EQ(other.Answer()["error"]["name"], "INVALID_ARGUMENT");
  other.Request(1, "policy", R"({"function":7})");
  EXPECT_EQ(other.Answer()["error"]["name"], "INVALID_ARGUMENT");
  other.Request(1, "policy", R"({"function":7,"policy":"scripted"})");
  EXPECT_EQ(other.Answer()["result"], (Json{{"function", 7}, {"policy", "scripted"}}));
  ASSERT_TRUE(fake::WaitForLog("end pages OK"));
  EXPECT_EQ(policies()[0]["state"], "frozen");

  Client client(path_);
  client.Request(1, "invoke", R"({"function":7})");
  EXPECT_EQ(client.Answer()["id"], 1);
  ASSERT_TRUE(fake::WaitForLog("end thaw OK"));
  EXPECT_EQ(policies()[0]["state"], "running");
  EXPECT_EQ(policies()[0]["requests"], 1);
  fake::TakeFarEnd().Reset();
  EXPECT_EQ(client.Bytes(), "");
  client.Close();
  Json now = policies();
  for (int i = 0; i < 1000 && now[0]["state"] != "frozen"; ++i) now = policies();
  EXPECT_EQ(now[0]["state"], "frozen");

  // One that fails to begin has ended, too.
  fake::FailNext("tunnel", MOULT_FAILED_PRECONDITION);
  Client failing(path_);
  failing.Request(1, "invoke", R"({"function":7})");
  EXPECT_EQ(failing.Answer()["error"]["name"], "FAILED_PRECONDITION");
  EXPECT_EQ(policies()[0]["requests"], 0);
}

// A kexec, say, of which the VMM knows nothing.
TEST_F(ServerPolicyTest, Policies_EndWithTheirGuest) {
  ASSERT_NO_FATAL_FAILURE(StartFreezing());
  const auto policies = [&] {
    client_->Request(9, "status");
    return client_->Answer()["result"]["policies"];
  };
  EXPECT_EQ(policies().size(), 1u);
  fake::BootAgain();
  for (int i = 0; i < 1000 && !policies().empty(); ++i) std::this_thread::yield();
  EXPECT_EQ(policies().size(), 0u);
  EXPECT_THAT(fake::Log(), Contains("cancel freeze"));
  EXPECT_THAT(fake::Log(), Not(Contains("thaw 1000"))) << "nothing is done to whoever has its number now";
}

// Its number may be another function's by then.
TEST_F(ServerPolicyTest, CallThatWaitsForAPolicy_IsAborted_WhenTheGuestBootsAgain) {
  ASSERT_NO_FATAL_FAILURE(StartFreezing());
  Client& client = *client_;
  client.Request(2, "kill", R"({"function":1000})");
  Client other(path_);
  const auto waits = [&] {
    other.Request(9, "status");
    const Json running = other.Answer()["result"]["running"];
    return std::any_of(running.begin(), running.end(), [](const Json& one) { return one["method"] == "kill" && one["waiting"] == true; });
  };
  // Once it has been begun it waits no more, and never will.
  while (!waits()) ASSERT_THAT(fake::Log(), Not(Contains("kill 1000")));
  fake::BootAgain();
  EXPECT_EQ(client.Answer()["error"]["message"], "kill: the guest has booted again: its functions are gone");
  fake::Release();
  EXPECT_THAT(fake::Log(), Not(Contains("kill 1000")));
}

TEST_F(ServerPolicyTest, CallByHand_WaitsForWhatAPolicyDoes) {
  ASSERT_NO_FATAL_FAILURE(StartFreezing());
  Client& client = *client_;
  client.Request(2, "kill", R"({"function":1000})");
  client.Request(3, "freeze", R"({"function":9})");
  EXPECT_EQ(client.Answer()["id"], 3) << "of another function";
  client.Request(4, "status");
  EXPECT_EQ(client.Answer()["result"]["running"][0]["method"], "kill");
  EXPECT_THAT(fake::Log(), Not(Contains("kill 1000")));
  fake::Release();
  const Json killed = client.Answer();
  EXPECT_EQ(killed["id"], 2);
  EXPECT_TRUE(killed.contains("result")) << killed;
  const std::vector<std::string> log = fake::Log();
  EXPECT_LT(std::ranges::find(log, "end freeze OK"), std::ranges::find(log, "kill 1000"));
  EXPECT_THAT(log, Not(Contains("cancel freeze")));
  // The policy goes on, once the call is over, with what is there then.
  const auto after = std::ranges::find(log, "end kill OK");
  ASSERT_NE(after, log.end());
  EXPECT_EQ(std::count(log.begin(), after, "list 0"), 1);
  client.Request(5, "policy", R"({"function":1000,"policy":"off"})");
  EXPECT_TRUE(client.Answer().contains("result"));
  EXPECT_EQ(std::ranges::count(fake::Log(), "list 0"), 2);
}

TEST_F(ServerPolicyTest, CallByHand_EndsWhatAPolicyDoes_WhenThatTakesLong) {
  ASSERT_NO_FATAL_FAILURE(StartFreezing());
  Client& client = *client_;
  const auto begin = std::chrono::steady_clock::now();
  client.Request(2, "kill", R"({"function":1000})");
  ASSERT_TRUE(fake::WaitForLog("kill 1000"));
  EXPECT_GE(std::chrono::steady_clock::now() - begin, kPolicyGivesWay);
  const std::vector<std::string> log = fake::Log();
  EXPECT_LT(std::ranges::find(log, "end freeze CANCELLED"), std::ranges::find(log, "kill 1000"));
  fake::Release();
  EXPECT_EQ(client.Answer()["id"], 2);
}

TEST_F(ServerPolicyTest, CallByHand_ThatWaitsCanBeCancelled_OrLoseItsClient) {
  ASSERT_NO_FATAL_FAILURE(StartFreezing());
  Client& client = *client_;
  client.Request(2, "kill", R"({"function":1000})");
  client.Request(3, "cancel", R"({"id":2})");
  const Json cancelled = client.Answer();
  EXPECT_EQ(cancelled["id"], 2);
  EXPECT_EQ(cancelled["error"]["name"], "CANCELLED");
  EXPECT_EQ(client.Answer()["id"], 3);
  // One that nobody waits for is done all the same.
  Client gone(path_);
  gone.Request(1, "detach", R"({"function":1000})");
  client.Request(4, "status");
  while (client.Answer()["result"]["running"].empty()) client.Request(4, "status");
  gone.Close();
  fake::Release();
  EXPECT_TRUE(fake::WaitForLog("end detach OK"));
  EXPECT_THAT(fake::Log(), Not(Contains("kill 1000")));
}

TEST_F(ServerPolicyTest, Metrics_HaveAFunctionsName_OnceAnAnswerToldIt) {
  fake::SetPolicy(FreezeIdle);
  StartServer();
  Client client(path_);
  client.Request(1, "policy", R"({"function":7,"policy":"scripted"})");
  EXPECT_TRUE(client.Answer().contains("result"));
  ASSERT_TRUE(fake::WaitForLog("end pages OK"));
  const auto metrics = [&] {
    client.Request(2, "metrics");
    return client.Answer()["result"]["text"].get<std::string>();
  };
  const auto asked = [] { return std::ranges::count_if(fake::Log(), [](const std::string& line) { return line.starts_with("list "); }); };
  const auto lists = asked();
  EXPECT_THAT(metrics(), Not(HasSubstr("moult_function_info")));
  EXPECT_EQ(asked(), lists) << "the agent is asked for the metrics";
  client.Request(3, "ps");
  EXPECT_TRUE(client.Answer().contains("result"));
  EXPECT_EQ(asked(), lists + 1);
  EXPECT_THAT(metrics(), HasSubstr("moult_function_info{function=\"7\",name=\"lucky\"} 1\n"));
  EXPECT_EQ(asked(), lists + 1);
  fake::BootAgain();
  for (int i = 0; i < 1000 && metrics().find("moult_policy_requests") != std::string::npos; ++i) std::this_thread::yield();
  EXPECT_THAT(metrics(), Not(HasSubstr("moult_function_info"))) << "another function's number by now";
}

TEST_F(ServerPolicyTest, PolicyOff_AnswersWhenTheFunctionRuns) {
  fake::SetPolicy(FreezeIdle);
  StartServer();
  Client client(path_);
  client.Request(1, "policy", R"({"function":7,"policy":"off"})");
  EXPECT_EQ(client.Answer()["error"]["name"], "NOT_FOUND");
  client.Request(2, "policy", R"({"function":1000,"policy":"scripted"})");
  EXPECT_TRUE(client.Answer().contains("result"));
  ASSERT_TRUE(fake::WaitForLog("freeze 1000"));
  client.Request(3, "policy", R"({"function":1000,"policy":"off"})");
  ASSERT_TRUE(fake::WaitForLog("thaw 1000"));
  client.Request(4, "status");
  const Json status = client.Answer();
  EXPECT_EQ(status["id"], 4) << "the thaw is under way";
  EXPECT_EQ(status["result"]["policies"][0]["state"], "leaving");
  client.Request(5, "cancel", R"({"id":3})");
  EXPECT_EQ(client.Answer()["error"]["name"], "FAILED_PRECONDITION");
  fake::Release();
  EXPECT_EQ(client.Answer(), (Json{{"id", 3}, {"result", {{"function", 1000}, {"policy", "off"}}}}));
  client.Request(6, "status");
  EXPECT_TRUE(client.Answer()["result"]["policies"].empty());
  client.Request(7, "metrics");
  EXPECT_THAT(client.Answer()["result"]["text"].get<std::string>(), HasSubstr("moult_keeper_steps_total{step=\"thaw\"} 1\n"));
}

}  // namespace
}  // namespace moult::control
