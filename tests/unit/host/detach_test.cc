// SPDX-License-Identifier: Apache-2.0
#include <poll.h>

#include "host_test.h"

namespace moult::host::testing {
namespace {

using rpc::GpaRun;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

class DetachTest : public HostTest {
 protected:
  void SetUp() override {
    HostTest::SetUp();
    CreateVm();
  }
  static std::vector<GpaRun> SinglePages(uint64_t count) {
    std::vector<GpaRun> runs;
    for (uint64_t i = 0; i < count; ++i) runs.emplace_back(kRamGpa + i * kPageBytes, kPageBytes);
    return runs;
  }
  // The first Detach is reported, and the connection closed at once; `then` scripts what follows.
  void ScriptLossInTheMidst(std::vector<GpaRun> runs, std::function<void()> then) {
    agent_->On(rpc::RequestBody::Detach, [runs, then](rpc::Channel& channel, uint64_t id, rpc::RequestT&) {
      then();
      rpc::DetachReportT report;
      report.exclusive = runs;
      (void)Respond(channel, id, rpc::MakeResponse(std::move(report)));
      return false;
    });
  }
  // From now on the agent says that the function has ended.
  void ScriptEnded(const std::string& reason) {
    agent_->On(rpc::RequestBody::Detach, [](rpc::Channel& channel, uint64_t id, rpc::RequestT&) {
      return Respond(channel, id, rpc::ErrorResponse(absl::FailedPreconditionError("it has ended")));
    });
    agent_->On(rpc::RequestBody::List, [reason](rpc::Channel& channel, uint64_t id, rpc::RequestT&) {
      rpc::ListReplyT list;
      list.functions.push_back(std::move(FunctionReply(7).function));
      list.functions[0]->state = rpc::FunctionState::Ended;
      list.functions[0]->end_reason = reason;
      return Respond(channel, id, rpc::MakeResponse(std::move(list)));
    });
  }
  // The agent closes the connection instead of confirming the end.
  void ScriptLoss() {
    ScriptDetach({GpaRun(kRamGpa, kPageBytes)});
    agent_->On(rpc::RequestBody::DetachEnd, [](rpc::Channel&, uint64_t, rpc::RequestT&) { return false; });
  }
};

TEST_F(DetachTest, Pages_AreGone_AndNoOthers) {
  const uint64_t before = guest_.AllocatedBytes();
  // More ranges than are discarded in one go.
  std::vector<GpaRun> runs;
  for (uint64_t i = 0; i < 300; i += 2) runs.emplace_back(kRamGpa + i * kPageBytes, kPageBytes);
  runs.emplace_back(kRamGpa + 512 * kPageBytes, 256 * kPageBytes);
  ScriptDetach(runs);
  nlohmann::json json;
  ASSERT_EQ(Detach(7, &json), 0) << moult_last_error();
  const uint64_t discarded = (150 + 256) * kPageBytes;
  EXPECT_EQ(json["discarded_bytes"], discarded);
  EXPECT_EQ(json["counters"]["zeroed_bytes"], 0);
  EXPECT_EQ(guest_.AllocatedBytes(), before - discarded);
  for (uint64_t i = 0; i < kRamBytes; ++i) {
    const uint64_t page = i / kPageBytes;
    const bool gone = (page < 300 && page % 2 == 0) || (page >= 512 && page < 768);
    ASSERT_EQ(guest_.ram[i], gone ? 0 : static_cast<uint8_t>(i * 7 + page + 1)) << i;
  }
  EXPECT_TRUE(committed_);
  EXPECT_THAT(agent_->Verbs(), ElementsAre("Detach", "DetachEnd"));
}

TEST_F(DetachTest, LyingReport_DiscardsNothing) {
  const uint64_t before = guest_.AllocatedBytes();
  const struct {
    const char* message;
    std::vector<GpaRun> runs;
  } lies[] = {
      {"not the guest's RAM", {GpaRun(kRamGpa, kPageBytes), GpaRun(kWindowGpa, kPageBytes)}},
      {"not the guest's RAM", {GpaRun(0, kPageBytes), GpaRun(kRamGpa, kPageBytes)}},
      {"not the guest's RAM", {GpaRun(kRamGpa, kRamBytes + kPageBytes)}},
      {"is not rising", {GpaRun(kRamGpa + kPageBytes, kPageBytes), GpaRun(kRamGpa, kPageBytes)}},
      {"is not rising", {GpaRun(kRamGpa, 2 * kPageBytes), GpaRun(kRamGpa + kPageBytes, kPageBytes)}},
      {"not page aligned", {GpaRun(kRamGpa + 1, kPageBytes)}},
      {"not whole pages", {GpaRun(kRamGpa, 100)}},
      {"wraps around", {GpaRun(~4095ull, 2 * kPageBytes)}},
  };
  for (const auto& lie : lies) {
    ScriptDetach(lie.runs);
    EXPECT_EQ(Detach(7), -EBADMSG) << lie.message;
    EXPECT_THAT(moult_last_error(), HasSubstr(lie.message));
    EXPECT_EQ(guest_.AllocatedBytes(), before);
    ExpectServing();
  }
  EXPECT_FALSE(committed_);
}

TEST_F(DetachTest, TenMillionRanges_AreRefused_ByTheirNumber) {
  agent_->On(rpc::RequestBody::Detach, [](rpc::Channel& channel, uint64_t id, rpc::RequestT&) {
    const auto header = rpc::EncodeHeader({rpc::FrameKind::kResponse, id, 160000000});
    return write(channel.fd(), header.data(), header.size()) > 0;
  });
  EXPECT_EQ(Detach(7), -ENOSPC);
  EXPECT_THAT(moult_last_error(), HasSubstr("payload of 160000000 bytes"));
  // As many as a message holds, one page each: over the limit of their number.
  ScriptDetach(std::vector<GpaRun>((4 << 20) + 1, GpaRun(kRamGpa, kPageBytes)));
  EXPECT_EQ(Detach(7), -EBADMSG);
  EXPECT_THAT(moult_last_error(), HasSubstr("over the limit of 4194304"));
  ExpectServing();
}

TEST_F(DetachTest, IsDoneAgain_WhenTheConnectionIsLostInTheMidst) {
  const uint64_t before = guest_.AllocatedBytes();
  ScriptLossInTheMidst(SinglePages(1000), [this] { ScriptDetach(SinglePages(1000)); });
  nlohmann::json json;
  EXPECT_EQ(Detach(7, &json), 0) << moult_last_error();
  EXPECT_EQ(json["detached"], true);
  EXPECT_THAT(json["notes"][0].get<std::string>(), HasSubstr("detached again, because: "));
  EXPECT_EQ(guest_.AllocatedBytes(), before - 1000 * kPageBytes);
  EXPECT_TRUE(committed_);
  EXPECT_THAT(agent_->Verbs(), ElementsAre("Detach", "Detach", "DetachEnd"));
  EXPECT_TRUE(Info()["half_detached"].empty());
}

TEST_F(DetachTest, IsAnError_WhenTheFunctionEndedBeforeAllWasDiscarded) {
  ScriptLossInTheMidst(SinglePages(1000), [this] { ScriptEnded("killed by signal 11"); });
  nlohmann::json json;
  EXPECT_EQ(Detach(7, &json), -EBADMSG);
  EXPECT_THAT(moult_last_error(), HasSubstr("function 7 has ended, but not all of its memory was discarded"));
  EXPECT_THAT(moult_last_error(), HasSubstr("restart the VM"));
  EXPECT_EQ(json["detached"], true);
  EXPECT_TRUE(Info()["half_detached"].empty());
  ExpectServing();
}

TEST_F(DetachTest, IsDone_WhenOnlyTheLastAnswerIsLost) {
  ScriptDetach({GpaRun(kRamGpa, kPageBytes)});
  agent_->On(rpc::RequestBody::DetachEnd, [this](rpc::Channel&, uint64_t, rpc::RequestT&) {
    ScriptEnded("detached");
    return false;
  });
  nlohmann::json json;
  EXPECT_EQ(Detach(7, &json), 0) << moult_last_error();
  EXPECT_EQ(json["detached"], true);
  EXPECT_THAT(agent_->Verbs(), ElementsAre("Detach", "DetachEnd", "Detach", "List"));
}

TEST_F(DetachTest, Function_IsKilled_WhenTheConnectionIsLostTwice) {
  ScriptLoss();
  agent_->On(rpc::RequestBody::Kill, [](rpc::Channel& channel, uint64_t id, rpc::RequestT& request) {
    EXPECT_EQ(request.body.AsKill()->function, 7u);
    return RespondDone(channel, id);
  });
  nlohmann::json json;
  EXPECT_EQ(Detach(7, &json), -EBADMSG);
  EXPECT_THAT(moult_last_error(), HasSubstr("not all of its memory was discarded"));
  EXPECT_EQ(json["detached"], true);
  EXPECT_THAT(agent_->Verbs(), ElementsAre("Detach", "DetachEnd", "Detach", "DetachEnd", "Kill"));
  EXPECT_TRUE(Info()["half_detached"].empty());
}

TEST_F(DetachTest, SilentAgent_CostsTheDeadline_AndNoPagesLeft) {
  for (const auto verb : {rpc::RequestBody::Detach, rpc::RequestBody::DetachEnd}) {
    ScriptDetach({GpaRun(kRamGpa, kPageBytes)});
    agent_->On(verb, [this](rpc::Channel& channel, uint64_t, rpc::RequestT&) {
      ScriptDetach({GpaRun(kRamGpa, kPageBytes)});
      pollfd closed{channel.fd(), POLLRDHUP, 0};
      EXPECT_EQ(poll(&closed, 1, 20000), 1);
      return false;
    });
    moult_op_options options = MOULT_INIT(options);
    options.timeout_ms = 200;
    OpHandle op;
    ASSERT_EQ(moult_vm_detach(vm_, 7, &options, op.out()), 0);
    if (verb == rpc::RequestBody::Detach) {
      EXPECT_EQ(op.Wait(), -ETIMEDOUT) << moult_last_error();
      EXPECT_EQ(op.Json()["detached"], false);
      EXPECT_NE(guest_.ram[0], 0);
    } else {
      EXPECT_EQ(op.Wait(), 0) << moult_last_error();
      EXPECT_EQ(guest_.ram[0], 0);
    }
    ExpectServing();
  }
}

TEST_F(DetachTest, Function_IsKilledLater_WhenTheAgentIsGone) {
  ScriptDetach({GpaRun(kRamGpa, kPageBytes)});
  const std::string path = agent_->path();
  // From here on nobody can connect.
  agent_->On(rpc::RequestBody::DetachEnd, [path](rpc::Channel&, uint64_t, rpc::RequestT&) {
    unlink(path.c_str());
    return false;
  });
  moult_op_options options = MOULT_INIT(options);
  options.timeout_ms = 1000;
  OpHandle op;
  ASSERT_EQ(moult_vm_detach(vm_, 7, &options, op.out()), 0);
  EXPECT_EQ(op.Wait(), -EBADMSG);
  EXPECT_THAT(moult_last_error(), HasSubstr("its pages were discarded, but its end is not confirmed"));
  EXPECT_EQ(Info()["half_detached"], nlohmann::json::array({7}));
  EXPECT_EQ(guest_.ram[0], 0);
  // It is back, and the next operation, whatever it is, kills first.
  agent_.reset();
  agent_ = std::make_unique<FakeAgent>(path, 1075);
  agent_->On(rpc::RequestBody::Kill,
             [](rpc::Channel& channel, uint64_t id, rpc::RequestT&) { return RespondDone(channel, id); });
  ExpectServing();
  EXPECT_THAT(agent_->Verbs(), ElementsAre("Kill", "List"));
  EXPECT_TRUE(Info()["half_detached"].empty());
}

TEST_F(DetachTest, NeedsRam) {
  moult_vm_close(vm_);
  Options options = DefaultOptions(&guest_);
  options.region = {};
  vm_ = Create(options);
  EXPECT_EQ(Detach(7), -EBUSY);
  EXPECT_THAT(moult_last_error(), HasSubstr("without RAM regions"));
}

}  // namespace
}  // namespace moult::host::testing
