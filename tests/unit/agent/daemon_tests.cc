// SPDX-License-Identifier: Apache-2.0
#include <gmock/gmock.h>
#include <poll.h>
#include <signal.h>
#include <sys/socket.h>

#include <array>
#include <cstdio>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "daemon.h"
#include "moult/protocol/frame.h"
#include "moult/protocol/template_reader.h"
#include "proc/read.h"
#include "rpc/config.h"

namespace moult::agent {
namespace {

using rpc::CaptureOutcome;
using rpc::FunctionState;
using ::testing::HasSubstr;
using ::testing::StartsWith;

TEST_F(AgentTest, Request_IsRefusedBeforeHello) {
  StartAgent();
  Client client(ConnectRaw());
  const auto reply = client.Call(rpc::ListT{});
  EXPECT_EQ(reply.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(reply.status().message(), HasSubstr("say Hello first"));
}

TEST_F(AgentTest, Function_LivesThroughCaptureKillAndAttach) {
  StartAgent();
  const auto client = Connect();
  const uint64_t first = RunCounter(*client);
  EXPECT_EQ(Ask(first), "1");
  EXPECT_EQ(Ask(first), "2");
  const auto taken = CaptureCopy(*client, first, CaptureOutcome::Resume);
  ASSERT_TRUE(taken.ok()) << taken.status();
  EXPECT_GT(taken->pages.size(), 0u);
  EXPECT_EQ(Ask(first), "3");
  rpc::KillT kill;
  kill.function = first;
  ASSERT_TRUE(client->Call(std::move(kill)).ok());
  EXPECT_EQ(Info(*client, first)->state, FunctionState::Ended);
  // Twice from one template, side by side.
  for (int copy = 0; copy < 2; ++copy) {
    const auto second = AttachStream(*client, *taken);
    ASSERT_TRUE(second.ok()) << second.status();
    EXPECT_NE(*second, first);
    EXPECT_EQ(Ask(*second), "3");
    EXPECT_EQ(Info(*client, *second)->generation, static_cast<uint64_t>(copy + 1));
  }
}

TEST_F(AgentTest, CaptureEnd_EndsTheFunctionWhenAsked) {
  StartAgent();
  const auto client = Connect();
  const uint64_t function = RunCounter(*client);
  const auto taken = CaptureCopy(*client, function, CaptureOutcome::End);
  ASSERT_TRUE(taken.ok()) << taken.status();
  const auto info = Info(*client, function);
  EXPECT_EQ(info->state, FunctionState::Ended);
  EXPECT_EQ(info->end_reason, "ended by its capture");
  const auto second = AttachStream(*client, *taken);
  ASSERT_TRUE(second.ok()) << second.status();
  // The template of an attached function is as good as the first.
  const auto again = CaptureCopy(*client, *second, CaptureOutcome::End);
  ASSERT_TRUE(again.ok()) << again.status();
  const auto third = AttachStream(*client, *again);
  ASSERT_TRUE(third.ok()) << third.status();
  EXPECT_EQ(Ask(*third), "1");
}

TEST_F(AgentTest, Capture_ResumesWhenTheHostGoes) {
  StartAgent();
  const auto client = Connect();
  const uint64_t function = RunCounter(*client);
  {
    const auto other = Connect();
    rpc::CaptureT capture;
    capture.function = function;
    capture.mode = rpc::PageMode::Copy;
    const auto id = other->channel.Send(rpc::MakeRequest(std::move(capture)), Soon());
    ASSERT_TRUE(id.ok());
    const auto response = other->channel.ReceiveResponse(*id, Soon());
    ASSERT_TRUE(response.ok()) << response.status();
    // Somebody else's turn must wait.
    rpc::CaptureT second;
    second.function = function;
    const auto refused = client->Call(std::move(second));
    EXPECT_EQ(refused.status().code(), absl::StatusCode::kFailedPrecondition);
    EXPECT_THAT(refused.status().message(), HasSubstr("Capture goes on"));
  }
  AwaitState(*client, function, FunctionState::Running);
  EXPECT_EQ(Ask(function), "1");
}

TEST_F(AgentTest, Capture_ResumesWhenItsWorkerIsKilled) {
  StartAgent();
  const auto client = Connect();
  const uint64_t function = RunCounter(*client);
  const auto other = Connect();
  rpc::CaptureT capture;
  capture.function = function;
  capture.mode = rpc::PageMode::Copy;
  const auto id = other->channel.Send(rpc::MakeRequest(std::move(capture)), Soon());
  ASSERT_TRUE(other->channel.ReceiveResponse(*id, Soon()).ok());
  const auto workers = Workers();
  ASSERT_EQ(workers.size(), 1u);
  kill(workers[0], SIGKILL);
  EXPECT_TRUE(ClosedByPeer(other->channel.fd()));
  AwaitState(*client, function, FunctionState::Running);
  EXPECT_EQ(Ask(function), "1");
  EXPECT_TRUE(CaptureCopy(*client, function, CaptureOutcome::Resume).ok());
}

TEST_F(AgentTest, Agent_FindsItsFunctionsAgain) {
  for (const int signal : {SIGKILL, SIGTERM}) {
    StartAgent();
    auto client = Connect();
    const uint64_t function = RunCounter(*client);
    EXPECT_EQ(Ask(function), "1");
    KillAgent(signal);
    StartAgent();
    client = Connect();
    const auto info = Info(*client, function);
    ASSERT_NE(info, nullptr);
    EXPECT_EQ(info->state, FunctionState::Running);
    EXPECT_EQ(info->spec->name, "counter");
    EXPECT_EQ(Ask(function), "2");
    const auto taken = CaptureCopy(*client, function, CaptureOutcome::Resume);
    EXPECT_TRUE(taken.ok()) << taken.status();
    rpc::KillT kill;
    kill.function = function;
    EXPECT_TRUE(client->Call(std::move(kill)).ok());
    EXPECT_NE(RunCounter(*client), function);
    KillAgent(SIGTERM);
  }
}

TEST_F(AgentTest, MalformedFrame_ClosesThatConnectionOnly) {
  StartAgent();
  const auto good = Connect();
  rpc::FrameHeader header{rpc::FrameKind::kRequest, 1, 5};
  const auto encoded = rpc::EncodeHeader(header);
  header.length = rpc::kMaxRequest + 1;
  const auto long_one = rpc::EncodeHeader(header);
  header = {rpc::FrameKind::kData, 1, 3};
  const auto data = rpc::EncodeHeader(header);
  const std::string cases[] = {
      "GET / HTTP/1.1\r\nHost: there\r\n\r\n", std::string(encoded.data(), encoded.size()) + "abcde",
      std::string(long_one.data(), long_one.size()), std::string(data.data(), data.size()) + "xyz"};
  for (const std::string& bytes : cases) {
    const UniqueFd fd = ConnectRaw();
    ASSERT_EQ(send(fd.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL), static_cast<ssize_t>(bytes.size()));
    EXPECT_TRUE(ClosedByPeer(fd.get())) << bytes.substr(0, 4);
    EXPECT_TRUE(good->Call(rpc::ListT{}).ok());
  }
  EXPECT_TRUE(AgentRuns());
}

TEST_F(AgentTest, Connections_AreRefusedAboveTheLimit) {
  StartAgent(", \"max_connections\": 2");
  const auto first = Connect();
  const auto second = Connect();
  Client third(ConnectRaw());
  rpc::HelloT hello;
  hello.version_min = hello.version_max = 1;
  const auto reply = third.Call(std::move(hello));
  EXPECT_FALSE(reply.ok());
  EXPECT_TRUE(first->Call(rpc::ListT{}).ok());
}

TEST_F(AgentTest, Verb_IsRefusedWhenNotAllowed) {
  StartAgent(", \"verbs\": [\"List\"]");
  const auto client = Connect();
  EXPECT_TRUE(client->Call(rpc::ListT{}).ok());
  rpc::KillT kill;
  kill.function = 1;
  const auto reply = client->Call(std::move(kill));
  EXPECT_EQ(reply.status().code(), absl::StatusCode::kPermissionDenied);
}

TEST_F(AgentTest, Run_NamesTheProgramThatIsNotThere) {
  StartAgent();
  const auto client = Connect();
  rpc::RunT run;
  run.spec = std::make_unique<rpc::FunctionSpecT>();
  run.spec->name = "nothing";
  run.spec->argv = {"/no/such/program"};
  const auto reply = client->Call(std::move(run));
  EXPECT_EQ(reply.status().code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(reply.status().message(), HasSubstr("/no/such/program: ENOENT"));
  const auto list = client->Call(rpc::ListT{});
  EXPECT_TRUE((*list)->body.AsListReply()->functions.empty());
}

TEST_F(AgentTest, Run_ShowsTheOutputOfWhatIsNotReady) {
  StartAgent();
  const auto client = Connect();
  for (const bool hangs : {false, true}) {
    rpc::RunT run;
    run.spec = std::make_unique<rpc::FunctionSpecT>(CounterSpec());
    run.spec->argv = {"/bin/sh", "-c", absl::StrCat("echo oh dear; ", hangs ? "exec sleep 600" : "exit 3")};
    run.spec->readiness->timeout_ms = hangs ? 5000 : 0;  // the shell is to have said it by then
    const auto reply = client->Call(std::move(run));
    EXPECT_EQ(reply.status().code(),
              hangs ? absl::StatusCode::kDeadlineExceeded : absl::StatusCode::kAborted);
    EXPECT_THAT(reply.status().message(), HasSubstr("oh dear"));
    const auto list = client->Call(rpc::ListT{});
    EXPECT_TRUE((*list)->body.AsListReply()->functions.empty());
  }
}

TEST_F(AgentTest, Function_EndIsReported) {
  StartAgent();
  const auto client = Connect();
  rpc::RunT run;
  run.spec = std::make_unique<rpc::FunctionSpecT>();
  run.spec->name = "ends";
  run.spec->argv = {"sh", "-c", "exit 7"};
  const auto reply = client->Call(std::move(run));
  ASSERT_TRUE(reply.ok()) << reply.status();
  const uint64_t id = (*reply)->body.AsFunctionReply()->function->id;
  AwaitState(*client, id, FunctionState::Ended);
  EXPECT_EQ(Info(*client, id)->end_reason, "exited with status 7");
  rpc::ForgetT forget;
  forget.function = id;
  EXPECT_TRUE(client->Call(std::move(forget)).ok());
  EXPECT_EQ(Info(*client, id), nullptr);
}

TEST_F(AgentTest, FrozenFunction_StandsStillUntilThawed) {
  if (cgroup_root_.empty()) GTEST_SKIP() << "no cgroup v2 that can be written to";
  StartAgent();
  const auto client = Connect();
  const uint64_t function = RunCounter(*client);
  rpc::FreezeT freeze;
  freeze.function = function;
  const auto frozen = client->Call(std::move(freeze));
  ASSERT_TRUE(frozen.ok()) << frozen.status();
  EXPECT_EQ(Info(*client, function)->state, FunctionState::Frozen);
  const auto events = proc::ReadFile(absl::StrCat(cgroup_root_, "/", function, "/cgroup.events"));
  ASSERT_TRUE(events.ok());
  EXPECT_THAT(*events, HasSubstr("frozen 1"));
  // A capture does not wake it for good.
  EXPECT_TRUE(CaptureCopy(*client, function, CaptureOutcome::Resume).ok());
  EXPECT_EQ(Info(*client, function)->state, FunctionState::Frozen);
  rpc::ThawT thaw;
  thaw.function = function;
  ASSERT_TRUE(client->Call(std::move(thaw)).ok());
  EXPECT_EQ(Ask(function), "1");
}

TEST_F(AgentTest, Attach_RefusesADamagedTemplate) {
  StartAgent();
  const auto client = Connect();
  const uint64_t function = RunCounter(*client);
  auto taken = CaptureCopy(*client, function, CaptureOutcome::End);
  ASSERT_TRUE(taken.ok()) << taken.status();
  taken->pages[taken->pages.size() / 2] ^= std::byte{1};
  const auto attached = AttachStream(*client, *taken);
  EXPECT_EQ(attached.status().code(), absl::StatusCode::kDataLoss) << attached.status();
  // The stream is still in step, and nothing half-made is left.
  const auto list = client->Call(rpc::ListT{});
  ASSERT_TRUE(list.ok()) << list.status();
  EXPECT_EQ((*list)->body.AsListReply()->functions.size(), 1u);
}

// What the C library's smallest embedder prints, as lines; empty when it failed.
std::vector<std::string> RunMinimal(const std::string& socket, const std::string& store,
                                    const std::vector<std::string>& argv) {
  std::string command = absl::StrCat(MOULT_MINIMAL, " ", socket, " ", store);
  for (const std::string& argument : argv) absl::StrAppend(&command, " ", argument);
  FILE* output = popen(command.c_str(), "re");
  if (output == nullptr) return {};
  std::string text;
  for (char buffer[4096]; fgets(buffer, sizeof(buffer), output) != nullptr;) text += buffer;
  return pclose(output) == 0 ? absl::StrSplit(text, '\n', absl::SkipEmpty()) : std::vector<std::string>();
}

TEST_F(AgentTest, MinimalEmbedder_CapturesAndAttaches) {
  StartAgent();
  const std::string store = folder_ + "/store";
  const std::vector<std::string> told = RunMinimal(folder_ + "/sock", store, {"/usr/bin/sleep", "1000"});
  ASSERT_EQ(told.size(), 4u);
  for (size_t i = 0; i < told.size(); ++i) {
    EXPECT_THAT(told[i], StartsWith(std::array{"run: ", "capture: ", "attach: ", "kill: "}[i]));
  }
  EXPECT_TRUE(image::TemplateReader::Open(store + "/minimal").ok());
  // The name is taken now.
  EXPECT_TRUE(RunMinimal(folder_ + "/sock", store, {"/usr/bin/sleep", "1000"}).empty());
}

TEST(AgentConfigTest, InstalledFile_HoldsTheDefaults) {
  const auto config = ReadConfig(MOULT_SOURCE_DIR "/guest-agent/systemd/agent.conf", /*must_exist=*/true);
  ASSERT_TRUE(config.ok()) << config.status();
  const Config defaults;
  EXPECT_EQ(config->unix_path, defaults.unix_path);
  EXPECT_EQ(config->vsock_port, defaults.vsock_port);
  EXPECT_EQ(config->allowed_cids, defaults.allowed_cids);
  EXPECT_EQ(config->verbs, defaults.verbs);
  EXPECT_EQ(config->state_dir, defaults.state_dir);
  EXPECT_EQ(config->cgroup_root, defaults.cgroup_root);
  EXPECT_EQ(config->require_cgroup, defaults.require_cgroup);
  EXPECT_EQ(config->warm_shells, defaults.warm_shells);
  EXPECT_EQ(config->keep_templates, defaults.keep_templates);
  EXPECT_EQ(config->max_connections, defaults.max_connections);
  EXPECT_EQ(config->max_functions, defaults.max_functions);
  EXPECT_EQ(config->max_streams, defaults.max_streams);
  EXPECT_EQ(config->keep_ended, defaults.keep_ended);
  EXPECT_EQ(config->log_bytes, defaults.log_bytes);
  EXPECT_EQ(config->hold_ms, defaults.hold_ms);
  EXPECT_EQ(config->message_ms, defaults.message_ms);
}

TEST(AgentConfigTest, WrongFile_IsRefusedByKey) {
  EXPECT_THAT(ParseConfig("{\"hold_ms\": -1}").status().message(), HasSubstr("\"hold_ms\" must be"));
  EXPECT_THAT(ParseConfig("{\"vsock_port\": 4294967296}").status().message(), HasSubstr("\"vsock_port\""));
  EXPECT_THAT(ParseConfig("{\"verbs\": [\"Reboot\"]}").status().message(), HasSubstr("list of verbs"));
  EXPECT_THAT(ParseConfig("{\"state_dir\": \"run\"}").status().message(), HasSubstr("absolute path"));
  EXPECT_THAT(ParseConfig("{\"color\": 1}").status().message(), HasSubstr("unknown key \"color\""));
  EXPECT_THAT(ParseConfig("[]").status().message(), HasSubstr("not a JSON object"));
  EXPECT_THAT(ReadConfig("/nonexistent/agent.conf", true).status().message(), HasSubstr("/nonexistent/agent.conf"));
  EXPECT_TRUE(ReadConfig("/nonexistent/agent.conf", false).ok());
}

}  // namespace
}  // namespace moult::agent
