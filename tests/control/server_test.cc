// SPDX-License-Identifier: Apache-2.0
#include "control/server.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include <filesystem>
#include <thread>

#include "control/listener.h"
#include "fake_moult.h"
#include "few_files.h"
#include "server_fixture.h"

namespace moult::control {
namespace {

using ::testing::AllOf;
using ::testing::Contains;
using ::testing::HasSubstr;
using ::testing::Not;

TEST_F(ServerTest, Socket_IsOursAlone) {
  StartServer();
  struct stat info;
  ASSERT_EQ(stat(path_.c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 07777, 0600u);
}

TEST_F(ServerTest, Listen_ReplacesWhatADeadProcessLeft_AndNothingElse) {
  { const absl::StatusOr<UniqueFd> dead = Listen(path_); }
  StartServer();
  const absl::StatusOr<UniqueFd> second = Listen(path_);
  EXPECT_EQ(second.status().code(), absl::StatusCode::kAlreadyExists);
  EXPECT_THAT(second.status().message(), HasSubstr("another process listens there"));
  EXPECT_EQ(Listen("/dev/null").status().code(), absl::StatusCode::kAlreadyExists);
  EXPECT_EQ(Listen(std::string(200, 'x')).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST_F(ServerTest, Call_GetsItsResult) {
  StartServer();
  Client client(path_);
  client.Request(1, "freeze", R"({"function":7})");
  EXPECT_EQ(client.Answer(), Json::parse(R"({"id":1,"result":{"op":"freeze","ok":true,"function":7}})"));
}

TEST_F(ServerTest, Call_GetsErrorAndDetail_WhenTheOperationFails) {
  StartServer();
  Client client(path_);
  client.Request(2, "repurpose", R"({"function":404,"name":"t"})");
  const Json answer = client.Answer();
  EXPECT_EQ(answer["id"], 2);
  EXPECT_EQ(answer["error"]["code"], 5);
  EXPECT_EQ(answer["error"]["name"], "NOT_FOUND");
  EXPECT_EQ(answer["detail"]["detached"], true);
}

TEST_F(ServerTest, Call_NamesTheParameter_WhenItIsWrong) {
  StartServer();
  Client client(path_);
  const struct {
    const char* method;
    const char* params;
    const char* message;
  } cases[] = {
      {"freeze", "{}", "parameter function is missing"},
      {"freeze", R"({"function":-1})", "parameter function must be a whole number"},
      {"freeze", R"({"function":1,"fnuction":1})", "parameter fnuction is unknown"},
      {"capture", R"({"function":1,"name":""})", "parameter name must be a text"},
      {"capture", R"({"function":1,"name":"a\u0000b"})", "parameter name must be a text"},
      {"capture", R"({"function":1,"name":"t","pages":"sideways"})", "must be one of: auto, in_place, copy"},
      {"capture", R"({"function":1,"name":"t","end":1})", "parameter end must be true or false"},
      {"fork", R"({"function":1,"name":"t"})", "parameter to is missing"},
      {"fork", R"({"function":1,"name":"t","to":"file:/p","keep":1})", "parameter keep must be true or false"},
      {"recall", R"({"function":1,"prefetch":"some"})", "must be one of: working-set, all, none"},
      {"offload", R"({"cold_only":true})", "parameter function is missing"},
      {"offload", R"({"function":1,"segment":"stack"})", "must be one of: all, runtime, init, exec"},
      {"why", "{}", "parameter gpa is missing"},
      {"pages", R"({"runs":1})", "parameter runs must be true or false"},
      {"run", R"({"function":[]})", "parameter function must be an object"},
      {"hello", R"({"timeout_ms":4294967296})", "parameter timeout_ms is too large"},
      {"explode", "{}", "there is no method explode"},
      {"cancel", R"({"id":9})", "no call with this id"},
  };
  for (const auto& c : cases) {
    client.Request(3, c.method, c.params);
    const Json answer = client.Answer();
    ASSERT_TRUE(answer.contains("error")) << c.method << c.params << answer;
    EXPECT_THAT(answer["error"]["message"].get<std::string>(), HasSubstr(c.message));
  }
  EXPECT_EQ(fake::LiveOps(), 0);
}

TEST_F(ServerTest, Malformed_ClosesThatClientOnly) {
  StartServer();
  Client good(path_);
  for (const std::string& line :
       {std::string("nonsense"), std::string("[1]"), std::string("{}"),
        std::string(R"({"id":{},"method":"ps"})"), std::string(R"({"id":1,"method":"ps","more":1})"),
        std::string(R"({"id":1,"method":5})"), std::string("{\"id\":1,\"method\":\"\xff\"}"),
        std::string(100, '['), std::string("\0", 1)}) {
    Client bad(path_);
    bad.Write(line + "\n");
    const Json answer = bad.Answer();
    EXPECT_EQ(answer["id"], nullptr) << line;
    EXPECT_EQ(answer["error"]["name"], "INVALID_ARGUMENT") << line;
    EXPECT_EQ(bad.Line(), "") << "closed: " << line;
  }
  good.Request(1, "status");
  EXPECT_EQ(good.Answer()["result"]["embedder"]["vmm"], "test");
  good.Request(2, "metrics");
  EXPECT_THAT(good.Answer()["result"]["text"].get<std::string>(), HasSubstr("moult_vm_info{name=\"fake\""));
}

TEST_F(ServerTest, LongLine_IsRefused) {
  StartServer();
  Client client(path_);
  const std::string chunk(64 * 1024, 'x');
  size_t sent = 0;
  while (sent <= kMaxLine && send(client.fd(), chunk.data(), chunk.size(), MSG_NOSIGNAL) > 0)
    sent += chunk.size();
  EXPECT_THAT(client.Answer()["error"]["message"].get<std::string>(), HasSubstr("longer than 1048576 bytes"));
}

TEST_F(ServerTest, Progress_IsSent_WhileACallRuns) {
  StartServer();
  Client client(path_);
  client.Request(5, "freeze", R"({"function":1000})");
  const Json progress = Json::parse(client.Line());
  EXPECT_EQ(progress["id"], 5);
  EXPECT_EQ(progress["progress"]["method"], "freeze");
  EXPECT_GE(progress["progress"]["elapsed_ms"], kProgressEvery.count());
  fake::Release();
  EXPECT_EQ(client.Answer()["result"]["ok"], true);
}

TEST_F(ServerTest, Cancel_EndsTheCall) {
  StartServer();
  Client client(path_);
  client.Request(5, "freeze", R"({"function":1000})");
  client.Request(6, "cancel", R"({"id":5})");
  EXPECT_EQ(client.Answer()["id"], 6);
  EXPECT_EQ(client.Answer()["error"]["name"], "CANCELLED");
}

TEST_F(ServerTest, ClientGone_ChangeGoesOnToItsEnd_AndStatusTells) {
  StartServer();
  {
    Client client(path_);
    client.Request(1, "repurpose", R"({"function":1000,"name":"t"})");
    ASSERT_TRUE(fake::WaitForLog("repurpose 1000 t"));
  }
  Client other(path_);
  // The first one's hang-up was seen when it is no client any more.
  for (;;) {
    other.Request(2, "status");
    const Json status = other.Answer()["result"];
    ASSERT_EQ(status["running"].size(), 1u) << status;
    if (status["clients"] == 1) break;
  }
  fake::Release();
  ASSERT_TRUE(fake::WaitForLog("end repurpose OK"));
  EXPECT_THAT(fake::Log(), Not(Contains("cancel repurpose")));
  other.Request(3, "status");
  const Json recent = other.Answer()["result"]["recent"];
  ASSERT_EQ(recent.size(), 1u);
  EXPECT_EQ(recent[0]["method"], "repurpose");
  EXPECT_EQ(recent[0]["client_gone"], true);
  EXPECT_EQ(fake::LiveOps(), 0);
}

TEST_F(ServerTest, ClientGone_QuestionIsCancelled) {
  StartServer();
  {
    Client client(path_);
    client.Request(1, "invoke", R"({"function":1000})");
    ASSERT_TRUE(fake::WaitForLog("tunnel 1000"));
  }
  EXPECT_TRUE(fake::WaitForLog("end tunnel CANCELLED"));
}

TEST_F(ServerTest, ClientThatOnlySendsNoMore_GetsItsAnswer) {
  StartServer();
  Client client(path_);
  client.Request(1, "freeze", R"({"function":1000})");
  ASSERT_TRUE(fake::WaitForLog("freeze 1000"));
  shutdown(client.fd(), SHUT_WR);
  fake::Release();
  EXPECT_EQ(client.Answer()["result"]["ok"], true);
  EXPECT_EQ(client.Line(), "");
}

TEST_F(ServerTest, Invoke_ConnectionBecomesTheStream) {
  StartServer();
  Client client(path_);
  // What follows the request at once is the stream's already.
  client.Write(R"({"id":1,"method":"invoke","params":{"function":7}})"
               "\nGET / HTTP/1.1\r\n");
  EXPECT_EQ(client.Answer()["id"], 1);
  UniqueFd far = fake::TakeFarEnd();
  char buffer[64];
  EXPECT_EQ(std::string(buffer, static_cast<size_t>(recv(far.get(), buffer, 16, MSG_WAITALL))),
            "GET / HTTP/1.1\r\n");
  ASSERT_EQ(send(far.get(), "HTTP/1.1 200", 12, 0), 12);
  EXPECT_EQ(client.Bytes(), "HTTP/1.1 200");
  shutdown(client.fd(), SHUT_WR);
  EXPECT_EQ(recv(far.get(), buffer, sizeof(buffer), 0), 0) << "half-closed";
  ASSERT_EQ(send(far.get(), "bye", 3, 0), 3);
  EXPECT_EQ(client.Bytes(), "bye");
  far.Reset();
  EXPECT_EQ(client.Bytes(), "");
}

TEST_F(ServerTest, Disk_IsServed_WhenItGetsNoThread) {
  forbids_threads_ = true;
  StartServer();
  Client client(path_);
  client.Request(1, "templates.list");
  EXPECT_TRUE(client.Answer()["result"].contains("templates"));
  client.Request(2, "capture", R"({"function":7,"name":"t"})");
  EXPECT_TRUE(client.Answer().contains("result"));
  EXPECT_THAT(fake::Log(), Contains("disk work"));
  server_->Stop();
  thread_.join();
  thread_ = std::thread([] {});
  EXPECT_THAT(messages_, ::testing::Each(AllOf(HasSubstr("start thread moult-disk: EAGAIN"), HasSubstr("raise the limit of tasks"))));
  EXPECT_EQ(messages_.size(), 2u);
}

TEST_F(ServerTest, Clients_Wait_WhenTheProcessHasNoDescriptorLeft) {
  StartServer();
  Client before(path_);
  before.Request(1, "status");
  EXPECT_TRUE(before.Answer().contains("result"));
  UniqueFd late(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_un address{.sun_family = AF_UNIX, .sun_path = {}};
  ASSERT_LT(path_.size(), sizeof(address.sun_path));
  path_.copy(address.sun_path, path_.size());
  {
    const testing::NoMoreFiles none;
    ASSERT_EQ(connect(late.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
    // Those that are there are served, and the server is no busier than that.
    for (int i = 0; i < 200; ++i) {
      before.Request(2, "status");
      ASSERT_TRUE(before.Answer().contains("result"));
    }
  }
  Client client(std::move(late));
  client.Request(3, "status");
  EXPECT_TRUE(client.Answer().contains("result"));
  server_->Stop();
  thread_.join();
  thread_ = std::thread([] {});
  ASSERT_GE(messages_.size(), 1u);
  EXPECT_THAT(messages_[0], AllOf(HasSubstr("control socket: accept: EMFILE"), HasSubstr("ulimit -n")));
  EXPECT_LE(std::ranges::count(messages_, messages_[0]), 1 + (std::chrono::steady_clock::now() - started_) / kAcceptAgain);
}

TEST_F(ServerTest, Invoke_NeedsAConnectionOfItsOwn) {
  StartServer();
  Client client(path_);
  client.Request(1, "freeze", R"({"function":1000})");
  client.Request(2, "invoke", R"({"function":7})");
  EXPECT_EQ(client.Answer()["error"]["name"], "FAILED_PRECONDITION");
  fake::Release();
  EXPECT_EQ(client.Answer()["id"], 1);
}

TEST_F(ServerTest, Stream_CarriesMuch_ToASlowReader) {
  StartServer();
  Client client(path_);
  client.Request(1, "logs", R"({"function":7,"follow":true})");
  EXPECT_EQ(client.Answer()["id"], 1);
  UniqueFd far = fake::TakeFarEnd();
  constexpr size_t kBytes = 8u << 20;
  std::thread writer([&] {
    const std::string chunk(64 * 1024, 'y');
    for (size_t sent = 0; sent < kBytes; sent += chunk.size()) {
      if (send(far.get(), chunk.data(), chunk.size(), MSG_NOSIGNAL) != ssize_t(chunk.size())) break;
    }
    far.Reset();
  });
  size_t got = 0;
  for (std::string bytes = client.Bytes(); !bytes.empty() && bytes != "timeout"; bytes = client.Bytes())
    got += bytes.size();
  writer.join();
  EXPECT_EQ(got, kBytes);
}

TEST_F(ServerTest, Sweep_BeginsByItself_AndHoldsUpNoCall) {
  fake::HoldSweeps(true);
  StartServer();
  fake::SetUnswept(1);
  ASSERT_TRUE(fake::WaitForLog("sweep 0"));
  Client client(path_);
  client.Request(1, "ps");
  EXPECT_TRUE(client.Answer().contains("result"));
  client.Request(2, "freeze", R"({"function":7})");
  EXPECT_TRUE(client.Answer().contains("result"));
  client.Request(3, "status");
  EXPECT_EQ(client.Answer()["result"]["sweep"], (Json{{"functions", 1}, {"running", true}, {"sweeps", 0}, {"failures", 0}}));
  fake::HoldSweeps(false);
  ASSERT_TRUE(fake::WaitForLog("end sweep OK"));
  client.Request(4, "status");
  EXPECT_EQ(client.Answer()["result"]["sweep"], (Json{{"functions", 0}, {"running", false}, {"sweeps", 1}, {"failures", 0}}));
}

TEST_F(ServerTest, DiskWork_IsDoneElsewhere) {
  StartServer();
  Client client(path_);
  client.Request(1, "capture", R"({"function":7,"name":"t","end":true,"pages":"copy"})");
  EXPECT_EQ(client.Answer()["result"]["ok"], true);
  EXPECT_THAT(fake::Log(), Contains("disk work"));
  EXPECT_THAT(fake::Log(), Contains("capture 7 t end=1 pages=2"));
}

TEST_F(ServerTest, Fork_TakesWhereTheTemplateGoes) {
  StartServer();
  Client client(path_);
  client.Request(1, "fork", R"({"function":7,"name":"t","to":"file:/p","keep":true,"pages":"copy"})");
  EXPECT_EQ(client.Answer()["result"]["ok"], true);
  client.Request(2, "fork", R"({"function":7,"name":"u","to":"dax:/q"})");
  EXPECT_EQ(client.Answer()["result"]["ok"], true);
  EXPECT_THAT(fake::Log(), Contains("disk work"));
  EXPECT_THAT(fake::Log(), Contains("fork 7 t to=file:/p flags=1 pages=2"));
  EXPECT_THAT(fake::Log(), Contains("fork 7 u to=dax:/q flags=0 pages=0"));
}

TEST_F(ServerTest, Attach_TakesWhereTheTemplateIs) {
  StartServer();
  Client client(path_);
  client.Request(1, "attach", R"({"name":"t","from":"file:/p","digest":"aa"})");
  EXPECT_EQ(client.Answer()["result"]["ok"], true);
  EXPECT_THAT(fake::Log(), Contains("attach 0 t pages=0 from=file:/p digest=aa"));
  client.Request(2, "attach", R"({"name":"t","from":""})");
  EXPECT_EQ(client.Answer()["error"]["message"], "parameter from must be a text that is not empty and has no NUL");
}

TEST_F(ServerTest, Templates_AreServed) {
  StartServer();
  Client client(path_);
  client.Request(1, "templates.list");
  EXPECT_EQ(client.Answer()["result"]["templates"][0]["name"], "t");
  client.Request(2, "templates.show", R"({"name":"gone"})");
  EXPECT_EQ(client.Answer()["error"]["name"], "NOT_FOUND");
  client.Request(3, "templates.verify", R"({"name":"t"})");
  EXPECT_EQ(client.Answer()["result"]["whole"], true);
  client.Request(4, "templates.remove", R"({"name":"t"})");
  EXPECT_EQ(client.Answer()["result"]["removed"], true);
}

TEST_F(ServerTest, Fault_IsTheAnswerToEverythingButStatus) {
  StartServer(absl::UnimplementedError("this QEMU does not export x"), /*store=*/false);
  Client client(path_);
  client.Request(1, "ps");
  EXPECT_EQ(client.Answer()["error"]["message"], "this QEMU does not export x");
  client.Request(2, "templates.list");
  EXPECT_EQ(client.Answer()["error"]["name"], "FAILED_PRECONDITION");
  client.Request(3, "status");
  EXPECT_EQ(client.Answer()["result"]["fault"]["name"], "UNIMPLEMENTED");
}

TEST_F(ServerTest, ManyCalls_AreAnswered_AllOfThem) {
  StartServer();
  Client client(path_);
  constexpr int kCalls = 2000;
  std::thread writer([&] {
    for (int i = 0; i < kCalls; ++i) client.Request(i, "thaw", R"({"function":3})");
  });
  int answers = 0;
  for (; answers < kCalls; ++answers) {
    if (!client.Answer().contains("result")) break;
  }
  writer.join();
  EXPECT_EQ(answers, kCalls);
  EXPECT_EQ(fake::LiveOps(), 0);
}

TEST_F(ServerTest, ManyClients_ComeAndGo) {
  StartServer();
  for (int round = 0; round < 200; ++round) {
    Client client(path_);
    client.Request(round, "freeze", R"({"function":1000})");
  }
  fake::Release();
  Client client(path_);
  client.Request(1, "ps");
  EXPECT_EQ(client.Answer()["result"]["ok"], true);
}

}  // namespace
}  // namespace moult::control
