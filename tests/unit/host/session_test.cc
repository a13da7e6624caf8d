// SPDX-License-Identifier: Apache-2.0
//
// What an agent, or a connection to one, can do wrong; and what an embedder can.
#include <poll.h>
#include <sys/socket.h>

#include "host_test.h"

namespace moult::host::testing {
namespace {

using ::testing::HasSubstr;

class SessionTest : public HostTest {
 protected:
  void SetUp() override {
    HostTest::SetUp();
    CreateVm();
  }
  int List(uint32_t timeout_ms = 0) {
    moult_op_options options = MOULT_INIT(options);
    options.timeout_ms = timeout_ms;
    OpHandle op;
    if (const int failed = moult_vm_list(vm_, &options, op.out()); failed != 0) return failed;
    return op.Wait();
  }
  // Answers List with these bytes, and closes or keeps the connection.
  void AnswerRaw(std::function<std::string(uint64_t id)> bytes, bool keep = false) {
    agent_->On(rpc::RequestBody::List, [bytes, keep](rpc::Channel& channel, uint64_t id, rpc::RequestT&) {
      const std::string raw = bytes(id);
      if (raw.empty()) return keep;  // Silence, also where nobody listens any more.
      EXPECT_EQ(send(channel.fd(), raw.data(), raw.size(), MSG_NOSIGNAL), static_cast<ssize_t>(raw.size()));
      return keep;
    });
  }
  void AnswerWell() {
    agent_->On(rpc::RequestBody::List, [](rpc::Channel& channel, uint64_t id, rpc::RequestT&) {
      return Respond(channel, id, rpc::MakeResponse(rpc::ListReplyT()));
    });
  }
  static std::string Frame(rpc::FrameKind kind, uint64_t id, const std::string& payload) {
    const auto header = rpc::EncodeHeader({kind, id, payload.size()});
    return std::string(header.data(), header.size()) + payload;
  }
  static std::string Reply() {
    rpc::ListReplyT list;
    list.functions.push_back(std::move(FunctionReply(3).function));
    return rpc::Serialize(rpc::MakeResponse(std::move(list)));
  }
};

TEST_F(SessionTest, TornFrame_IsAnError_AtEveryByte) {
  const size_t whole = Frame(rpc::FrameKind::kResponse, 1, Reply()).size();
  for (size_t length = 0; length < whole; ++length) {
    AnswerRaw([=](uint64_t id) { return Frame(rpc::FrameKind::kResponse, id, Reply()).substr(0, length); });
    ASSERT_EQ(List(), -ECONNRESET) << length;
    ASSERT_THAT(moult_last_error(), HasSubstr("closed the connection"));
  }
  AnswerRaw([](uint64_t id) { return Frame(rpc::FrameKind::kResponse, id, Reply()); }, true);
  EXPECT_EQ(List(), 0) << moult_last_error();
}

TEST_F(SessionTest, WrongFrames_AreRefused) {
  using rpc::FrameKind;
  const struct {
    const char* message;
    int error;
    std::function<std::string(uint64_t)> bytes;
  } frames[] = {
      {"a response to call", -EBADMSG,
       [](uint64_t id) { return Frame(FrameKind::kResponse, id + 1, Reply()); }},
      {"kind 1 came", -EBADMSG, [](uint64_t id) { return Frame(FrameKind::kRequest, id, Reply()); }},
      {"kind 3 came", -EBADMSG, [](uint64_t id) { return Frame(FrameKind::kData, id, "x"); }},
      {"magic is", -EBADMSG, [](uint64_t) { return std::string(24, 'x'); }},
      {"not a FlatBuffer", -EBADMSG, [](uint64_t id) { return Frame(FrameKind::kResponse, id, "abc"); }},
      {"answered List with Done", -EBADMSG,
       [](uint64_t id) {
         return Frame(FrameKind::kResponse, id, rpc::Serialize(rpc::MakeResponse(rpc::DoneT())));
       }},
      {"payload of 9223372036854775807", -ENOSPC,
       [](uint64_t id) {
         const auto header = rpc::EncodeHeader({FrameKind::kResponse, id, INT64_MAX});
         return std::string(header.data(), header.size());
       }},
  };
  for (const auto& frame : frames) {
    AnswerRaw(frame.bytes, true);
    EXPECT_EQ(List(), frame.error) << frame.message;
    EXPECT_THAT(moult_last_error(), HasSubstr(frame.message));
    AnswerWell();
    EXPECT_EQ(List(), 0) << moult_last_error();
  }
}

TEST_F(SessionTest, Silence_EndsWithTheDeadline) {
  AnswerRaw([](uint64_t) { return std::string(); }, true);
  EXPECT_EQ(List(150), -ETIMEDOUT);
  EXPECT_EQ(moult_last_error_code(), MOULT_DEADLINE_EXCEEDED);
  // Half a frame, and silence.
  AnswerRaw([](uint64_t id) { return Frame(rpc::FrameKind::kResponse, id, Reply()).substr(0, 40); }, true);
  EXPECT_EQ(List(150), -ETIMEDOUT);
  AnswerWell();
  EXPECT_EQ(List(), 0) << moult_last_error();
}

TEST_F(SessionTest, UnaskedBytes_CostAnIdleConnectionOnly) {
  AnswerRaw([](uint64_t id) { return Frame(rpc::FrameKind::kResponse, id, Reply()) + "junk"; }, true);
  EXPECT_EQ(List(), 0) << moult_last_error();
  AnswerWell();
  EXPECT_EQ(List(), 0) << moult_last_error();
}

TEST_F(SessionTest, NobodyThere_IsUnavailable) {
  agent_.reset();
  EXPECT_EQ(List(), -ECONNRESET);
  EXPECT_THAT(moult_last_error(), HasSubstr("is the VM up and moult-agent running?"));
  // Somebody who knows no such port closes.
  agent_ = std::make_unique<FakeAgent>(root_ + "/agent", 9);
  EXPECT_EQ(List(), -ECONNRESET);
  EXPECT_THAT(moult_last_error(), HasSubstr("nobody listens on that port"));
}

TEST_F(SessionTest, OtherVersion_IsRefused) {
  rpc::HelloReplyT hello;
  hello.version = 2;
  agent_->SetHello(std::move(hello));
  EXPECT_EQ(List(), -EBUSY);
  EXPECT_THAT(moult_last_error(), HasSubstr("protocol version 2"));
}

TEST_F(SessionTest, GivenConnection_Works_AndIsNotMadeAgain) {
  moult_vm_close(vm_);
  int pair[2];
  ASSERT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
  std::thread agent([fd = pair[1]] {
    rpc::Channel channel{UniqueFd(fd)};
    for (int i = 0; i < 3; ++i) {
      auto request = channel.ReceiveRequest(rpc::Clock::now() + std::chrono::seconds(20));
      if (!request.ok()) return;
      rpc::HelloReplyT hello;
      hello.version = 1;
      const bool first = request->second->body.type == rpc::RequestBody::Hello;
      Respond(channel, request->first,
              first ? rpc::MakeResponse(std::move(hello)) : rpc::MakeResponse(rpc::ListReplyT()));
    }
  });
  Options options = DefaultOptions(&guest_);
  options.vm.transport = {};
  options.vm.transport.kind = MOULT_TRANSPORT_FD;
  options.vm.transport.fd = pair[0];
  vm_ = Create(options);
  OpHandle one, two, tunnel;
  // Side by side they take turns.
  ASSERT_EQ(moult_vm_list(vm_, nullptr, one.out()), 0);
  ASSERT_EQ(moult_vm_list(vm_, nullptr, two.out()), 0);
  EXPECT_EQ(two.Wait(), 0) << moult_last_error();
  EXPECT_EQ(one.Wait(), 0) << moult_last_error();
  EXPECT_EQ(moult_vm_tunnel(vm_, 1, nullptr, tunnel.out()), -EBUSY);
  agent.join();
  EXPECT_EQ(List(), -ECONNRESET);
  EXPECT_THAT(moult_last_error(), HasSubstr("only one was given"));
}

TEST_F(SessionTest, Tunnel_IsAByteStream) {
  agent_->On(rpc::RequestBody::Tunnel, [](rpc::Channel& channel, uint64_t id, rpc::RequestT&) {
    if (!RespondDone(channel, id)) return false;
    EXPECT_EQ(send(channel.fd(), "hello", 5, MSG_NOSIGNAL), 5);
    return false;
  });
  OpHandle op;
  ASSERT_EQ(moult_vm_tunnel(vm_, 7, nullptr, op.out()), 0);
  ASSERT_EQ(op.Wait(), 0) << moult_last_error();
  const UniqueFd fd(moult_op_take_fd(op.get()));
  ASSERT_TRUE(fd.valid());
  std::string got;
  pollfd poll_fd{fd.get(), POLLIN, 0};
  char bytes[16];
  while (got.size() < 5 && poll(&poll_fd, 1, 20000) == 1) {
    const ssize_t n = read(fd.get(), bytes, sizeof(bytes));
    if (n <= 0) break;
    got.append(bytes, static_cast<size_t>(n));
  }
  EXPECT_EQ(got, "hello");
  EXPECT_EQ(moult_op_take_fd(op.get()), -ENOENT);
}

TEST_F(SessionTest, Run_SaysWhatIsWrongWithTheFunction) {
  const struct {
    const char* json;
    const char* message;
  } functions[] = {
      {"nonsense", "is not a JSON object"},
      {R"({"name": "a"})", "argv: empty"},
      {R"({"name": "../a", "argv": ["x"]})", "name: is not 1 to 64"},
      {R"({"name": "a", "argv": ["x"], "typo": 1})", "typo: is unknown"},
      {R"({"name": "a", "argv": "x"})", "argv: is string, not array"},
      {R"({"name": "a", "argv": ["x"], "uid": 4294967296})", "uid: is too large"},
      {R"({"name": "a", "argv": ["x"], "endpoint": {"kind": "udp"}})", "endpoint.kind: \"udp\" is unknown"},
      {R"({"name": "a", "argv": ["x"], "readiness": {"kind": "connect"}})", "has no endpoint"},
      {R"({"name": "a", "argv": ["x"], "endpoint": {"kind": "tcp", "port": 1},
           "readiness": {"kind": "http_get", "path": "/ HTTP/1.1"}})",
       "no request line may have"},
  };
  for (const auto& function : functions) {
    OpHandle op;
    EXPECT_EQ(moult_vm_run(vm_, function.json, nullptr, op.out()), -EINVAL) << function.json;
    EXPECT_THAT(moult_last_error(), HasSubstr(function.message));
  }
}

TEST_F(SessionTest, Run_SendsTheFunction) {
  agent_->On(rpc::RequestBody::Run, [](rpc::Channel& channel, uint64_t id, rpc::RequestT& request) {
    const rpc::FunctionSpecT& spec = *request.body.AsRun()->spec;
    EXPECT_EQ(spec.argv, (std::vector<std::string>{"python3", "app.py"}));
    EXPECT_EQ(spec.endpoint->kind, rpc::EndpointKind::Unix);
    EXPECT_EQ(spec.readiness->kind, rpc::ReadinessKind::HttpGet);
    EXPECT_EQ(spec.after_attach->command, std::vector<std::string>{"true"});
    EXPECT_EQ(spec.memory_limit, 1u << 30);
    EXPECT_GT(request.deadline_ms, 0u);
    return Respond(channel, id, rpc::MakeResponse(FunctionReply(9)));
  });
  OpHandle op;
  ASSERT_EQ(moult_vm_run(vm_, R"({"name": "a", "argv": ["python3", "app.py"], "memory_limit": 1073741824,
      "endpoint": {"kind": "unix", "path": "/run/f"}, "readiness": {"kind": "http_get", "path": "/"},
      "after_attach": {"kind": "command", "command": ["true"]}})",
                         nullptr, op.out()),
            0)
      << moult_last_error();
  ASSERT_EQ(op.Wait(), 0) << moult_last_error();
  EXPECT_EQ(op.Numbers().function, 9u);
}

TEST_F(SessionTest, Callback_MayStartAndFree_ButNotProcess) {
  struct State {
    moult_vm* vm;
    moult_op* next = nullptr;
    int calls = 0;
  } state{vm_};
  moult_op_options options = MOULT_INIT(options);
  options.user = &state;
  options.done = [](void* user, moult_op* op) {
    auto* to = static_cast<State*>(user);
    ++to->calls;
    EXPECT_EQ(moult_op_state(op), MOULT_OP_SUCCEEDED);
    moult_op_free(op);
    EXPECT_EQ(moult_vm_list(to->vm, nullptr, &to->next), 0);
  };
  moult_op* op = nullptr;
  ASSERT_EQ(moult_vm_list(vm_, &options, &op), 0);
  while (state.calls == 0) {
    pollfd poll_fd{moult_vm_fd(vm_), POLLIN, 0};
    ASSERT_EQ(poll(&poll_fd, 1, 20000), 1);
    ASSERT_GE(moult_vm_process(vm_), 0);
  }
  EXPECT_EQ(moult_op_wait(state.next, -1), 0) << moult_last_error();
  moult_op_free(state.next);
  EXPECT_EQ(state.calls, 1);
}

TEST_F(SessionTest, Cancel_And_Close_EndWhatRuns) {
  AnswerRaw([](uint64_t) { return std::string(); }, true);
  OpHandle one, two, three;
  ASSERT_EQ(moult_vm_list(vm_, nullptr, one.out()), 0);
  ASSERT_EQ(moult_vm_list(vm_, nullptr, two.out()), 0);
  ASSERT_EQ(moult_vm_list(vm_, nullptr, three.out()), 0);
  EXPECT_EQ(moult_op_wait(one.get(), 50), -ETIME);
  EXPECT_EQ(moult_op_result(one.get()), -EINPROGRESS);
  moult_op_cancel(one.get());
  EXPECT_EQ(one.Wait(), -ECANCELED);
  ASSERT_EQ(moult_vm_guest_reset(vm_), 0);
  EXPECT_EQ(two.Wait(), -EAGAIN);
  OpHandle four;
  ASSERT_EQ(moult_vm_list(vm_, nullptr, four.out()), 0);
  EXPECT_EQ(moult_op_wait(four.get(), 50), -ETIME);
  moult_vm_close(vm_);
  vm_ = nullptr;
  EXPECT_EQ(moult_op_result(four.get()), -ECANCELED);
  EXPECT_EQ(moult_op_run(four.get()), -ENOENT);
}

TEST_F(SessionTest, Options_OfOtherVersions) {
  moult_op_options options = MOULT_INIT(options);
  options.size = 4;
  OpHandle op;
  EXPECT_EQ(moult_vm_list(vm_, &options, op.out()), -EINVAL);
  EXPECT_THAT(moult_last_error(), HasSubstr("size is 4"));
  struct {
    moult_op_options known;
    uint64_t later;
  } newer{};
  newer.known.size = sizeof(newer);
  EXPECT_EQ(moult_vm_list(vm_, &newer.known, op.out()), 0);
  EXPECT_EQ(op.Wait(), 0);
  newer.later = 1;
  OpHandle refused;
  EXPECT_EQ(moult_vm_list(vm_, &newer.known, refused.out()), -EOPNOTSUPP);
}

}  // namespace
}  // namespace moult::host::testing
