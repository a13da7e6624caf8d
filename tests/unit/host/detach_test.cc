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
  // What the agent says of the function from now on.
  void ScriptList(rpc::FunctionState state, const std::string& reason = "") {
    agent_->On(rpc::RequestBody::List, [state, reason](rpc::Channel& channel, uint64_t id, rpc::RequestT&) {
      rpc::ListReplyT list;
      list.functions.push_back(std::move(FunctionReply(7).function));
      list.functions[0]->state = state;
      list.functions[0]->end_reason = reason;
      return Respond(channel, id, rpc::MakeResponse(std::move(list)));
    });
  }
  // The agent closes the connection instead of answering `verb`.
  void ScriptLossAt(rpc::RequestBody verb) {
    agent_->On(verb, [](rpc::Channel&, uint64_t, rpc::RequestT&) { return false; });
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
  EXPECT_THAT(agent_->Verbs(), ElementsAre("Detach", "DetachPages", "DetachEnd"));
}

// As with a memory backend for each node.
TEST_F(DetachTest, Range_MayCrossRegionsThatTouch) {
  moult_vm_close(vm_);
  Options options = DefaultOptions(&guest_);
  options.halves = true;
  vm_ = Create(options);
  const uint64_t before = guest_.AllocatedBytes();
  constexpr uint64_t kFirst = kRamBytes / 2 - 3 * kPageBytes;
  ScriptDetach({GpaRun(kRamGpa + kFirst, 8 * kPageBytes)});
  nlohmann::json json;
  ASSERT_EQ(Detach(7, &json), 0) << moult_last_error();
  EXPECT_EQ(json["discarded_bytes"], 8 * kPageBytes);
  EXPECT_EQ(guest_.AllocatedBytes(), before - 8 * kPageBytes);
  for (uint64_t i = kFirst - 1; i <= kFirst + 8 * kPageBytes; ++i) {
    const bool gone = i >= kFirst && i < kFirst + 8 * kPageBytes;
    ASSERT_EQ(guest_.ram[i], gone ? 0 : static_cast<uint8_t>(i * 7 + i / kPageBytes + 1)) << i;
  }
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
    nlohmann::json json;
    EXPECT_EQ(Detach(7, &json), -EBADMSG) << lie.message;
    EXPECT_THAT(moult_last_error(), HasSubstr(lie.message));
    EXPECT_EQ(json["detached"], true);
    EXPECT_EQ(guest_.AllocatedBytes(), before);
    ExpectServing();
  }
  EXPECT_FALSE(committed_);
}

TEST_F(DetachTest, TenMillionRanges_AreRefused_ByTheirNumber) {
  ScriptDetach({});
  agent_->On(rpc::RequestBody::DetachPages, [](rpc::Channel& channel, uint64_t id, rpc::RequestT&) {
    const auto header = rpc::EncodeHeader({rpc::FrameKind::kResponse, id, 160000000});
    return write(channel.fd(), header.data(), header.size()) > 0;
  });
  nlohmann::json json;
  // Nothing of that size is taken in; what the function had is the guest's to wipe.
  EXPECT_EQ(Detach(7, &json), 0) << moult_last_error();
  EXPECT_THAT(json["notes"][0].get<std::string>(), HasSubstr("payload of 160000000 bytes"));
  EXPECT_EQ(json["discarded_bytes"], 0);
  // As many as a message holds, one page each: over the limit of their number.
  ScriptDetach(std::vector<GpaRun>((4 << 20) + 1, GpaRun(kRamGpa, kPageBytes)));
  EXPECT_EQ(Detach(7), -EBADMSG);
  EXPECT_THAT(moult_last_error(), HasSubstr("over the limit of 4194304"));
  ExpectServing();
}

TEST_F(DetachTest, Function_RunsOn_WhenTheAgentRefuses) {
  const uint64_t before = guest_.AllocatedBytes();
  ScriptDetach({GpaRun(kRamGpa, kPageBytes)});
  agent_->On(rpc::RequestBody::Detach, [](rpc::Channel& channel, uint64_t id, rpc::RequestT&) {
    return Respond(channel, id, rpc::ErrorResponse(absl::AbortedError("its pages move")));
  });
  nlohmann::json json;
  EXPECT_EQ(Detach(7, &json), -EAGAIN);
  EXPECT_EQ(json["detached"], false);
  EXPECT_EQ(guest_.AllocatedBytes(), before);
  EXPECT_THAT(agent_->Verbs(), ElementsAre("Detach"));
  ExpectServing();
}

TEST_F(DetachTest, IsDone_WhenOnlyTheAnswerIsLost) {
  const uint64_t before = guest_.AllocatedBytes();
  ScriptDetach({GpaRun(kRamGpa, kPageBytes)});
  agent_->On(rpc::RequestBody::Detach, [this](rpc::Channel&, uint64_t, rpc::RequestT&) {
    ScriptList(rpc::FunctionState::Ended, rpc::kEndReasonDetached);
    return false;
  });
  nlohmann::json json;
  EXPECT_EQ(Detach(7, &json), 0) << moult_last_error();
  EXPECT_EQ(json["detached"], true);
  EXPECT_THAT(json["notes"][0].get<std::string>(), HasSubstr("wiped by the guest"));
  EXPECT_EQ(guest_.AllocatedBytes(), before);
  EXPECT_THAT(agent_->Verbs(), ElementsAre("Detach", "List"));
}

TEST_F(DetachTest, IsAsked_UntilTheAgentKnows) {
  ScriptDetach({GpaRun(kRamGpa, kPageBytes)});
  ScriptLossAt(rpc::RequestBody::Detach);
  auto asked = std::make_shared<std::atomic<int>>(0);
  agent_->On(rpc::RequestBody::List, [asked](rpc::Channel& channel, uint64_t id, rpc::RequestT&) {
    rpc::ListReplyT list;
    list.functions.push_back(std::move(FunctionReply(7).function));
    const bool known = ++*asked > 3;
    list.functions[0]->state = known ? rpc::FunctionState::Running : rpc::FunctionState::Detaching;
    return Respond(channel, id, rpc::MakeResponse(std::move(list)));
  });
  nlohmann::json json;
  EXPECT_EQ(Detach(7, &json), -ECONNRESET);
  EXPECT_THAT(moult_last_error(), HasSubstr("function 7 runs on"));
  EXPECT_EQ(json["detached"], false);
  EXPECT_EQ(*asked, 4);
}

TEST_F(DetachTest, IsAnError_WhenTheFunctionEndedOtherwise) {
  ScriptDetach({GpaRun(kRamGpa, kPageBytes)});
  ScriptLossAt(rpc::RequestBody::Detach);
  ScriptList(rpc::FunctionState::Ended, "killed by signal 11");
  nlohmann::json json;
  EXPECT_EQ(Detach(7, &json), -EBADMSG);
  EXPECT_THAT(moult_last_error(), HasSubstr("has ended, but not by this detach"));
  ExpectServing();
}

TEST_F(DetachTest, IsAnError_WhenNobodyTellsWhatBecameOfIt) {
  ScriptDetach({GpaRun(kRamGpa, kPageBytes)});
  const std::string path = agent_->path();
  // From here on nobody can connect.
  agent_->On(rpc::RequestBody::Detach, [path](rpc::Channel&, uint64_t, rpc::RequestT&) {
    unlink(path.c_str());
    return false;
  });
  moult_op_options options = MOULT_INIT(options);
  options.timeout_ms = 5000;  // the agent is to hear of it, and is looked for longer than that
  OpHandle op;
  ASSERT_EQ(moult_vm_detach(vm_, 7, &options, op.out()), 0);
  EXPECT_EQ(op.Wait(), -EBADMSG);
  EXPECT_THAT(moult_last_error(), HasSubstr("whether it has ended is not known"));
  EXPECT_EQ(op.Json()["detached"], false);
}

TEST_F(DetachTest, Question_Ends_WhenTheGuestIsReset) {
  ScriptDetach({GpaRun(kRamGpa, kPageBytes)});
  const std::string path = agent_->path();
  agent_->On(rpc::RequestBody::Detach, [path](rpc::Channel&, uint64_t, rpc::RequestT&) {
    unlink(path.c_str());
    return false;
  });
  OpHandle op;
  ASSERT_EQ(moult_vm_detach(vm_, 7, nullptr, op.out()), 0);
  ASSERT_EQ(moult_op_wait(op.get(), 200), -ETIME);
  ASSERT_EQ(moult_vm_guest_reset(vm_), 0);
  // Where nobody says so, an agent is looked for longer.
  EXPECT_EQ(moult_op_wait(op.get(), 8000), -EAGAIN);
  EXPECT_THAT(moult_last_error(), HasSubstr("the guest was reset"));
}

TEST_F(DetachTest, Cancel_TellsWhatBecameOfTheFunction) {
  ScriptDetach({GpaRun(kRamGpa, kPageBytes)});
  ScriptList(rpc::FunctionState::Running);
  agent_->On(rpc::RequestBody::Detach, [](rpc::Channel& channel, uint64_t, rpc::RequestT&) {
    pollfd closed{channel.fd(), POLLRDHUP, 0};
    EXPECT_EQ(poll(&closed, 1, 20000), 1);
    return false;
  });
  OpHandle op;
  ASSERT_EQ(moult_vm_detach(vm_, 7, nullptr, op.out()), 0);
  // Before the agent has been asked there is nothing to be found out.
  while (agent_->Verbs().empty()) ASSERT_EQ(moult_op_wait(op.get(), 1), -ETIME);
  moult_op_cancel(op.get());
  EXPECT_EQ(moult_op_wait(op.get(), 15000), -ECANCELED);
  EXPECT_THAT(moult_last_error(), HasSubstr("function 7 runs on"));
}

// The guest wipes what was not discarded: that is no failure, but it is told.
TEST_F(DetachTest, Loss_AfterTheEnd_LeavesTheRestToTheGuest) {
  for (const auto verb : {rpc::RequestBody::DetachPages, rpc::RequestBody::DetachEnd}) {
    ScriptDetach(SinglePages(200));
    ScriptLossAt(verb);
    nlohmann::json json;
    EXPECT_EQ(Detach(7, &json), 0) << moult_last_error();
    EXPECT_EQ(json["detached"], true);
    const bool discarded = verb == rpc::RequestBody::DetachEnd;
    EXPECT_EQ(json["discarded_bytes"], discarded ? 200 * kPageBytes : 0);
    EXPECT_EQ(json.contains("notes"), !discarded);
    ExpectServing();
  }
}

TEST_F(DetachTest, Discard_Stops_WhenTheAgentCloses) {
  const uint64_t before = guest_.AllocatedBytes();
  ScriptDetach({});
  agent_->On(rpc::RequestBody::DetachPages, [](rpc::Channel& channel, uint64_t id, rpc::RequestT&) {
    rpc::DetachReportT report;
    report.exclusive = SinglePages(1000);
    (void)Respond(channel, id, rpc::MakeResponse(std::move(report)));
    return false;
  });
  nlohmann::json json;
  EXPECT_EQ(Detach(7, &json), 0) << moult_last_error();
  EXPECT_EQ(json["detached"], true);
  if (json["discarded_bytes"] == 1000 * kPageBytes) {
    EXPECT_EQ(guest_.AllocatedBytes(), before - 1000 * kPageBytes);
  } else {
    EXPECT_EQ(json["discarded_bytes"], 0) << "the guest wipes all that it holds";
    EXPECT_THAT(json["notes"][0].get<std::string>(), HasSubstr("its memory was not given back"));
  }
  ExpectServing();
}

TEST_F(DetachTest, SilentAgent_CostsTheDeadline) {
  for (const auto verb : {rpc::RequestBody::Detach, rpc::RequestBody::DetachPages, rpc::RequestBody::DetachEnd}) {
    ScriptDetach({GpaRun(kRamGpa, kPageBytes)});
    ScriptList(rpc::FunctionState::Running);
    agent_->On(verb, [](rpc::Channel& channel, uint64_t, rpc::RequestT&) {
      pollfd closed{channel.fd(), POLLRDHUP, 0};
      EXPECT_EQ(poll(&closed, 1, 20000), 1);
      return false;
    });
    moult_op_options options = MOULT_INIT(options);
    options.timeout_ms = 2000;  // of what is answered, too
    OpHandle op;
    ASSERT_EQ(moult_vm_detach(vm_, 7, &options, op.out()), 0);
    EXPECT_EQ(op.Wait(), verb == rpc::RequestBody::Detach ? -ETIMEDOUT : 0) << moult_last_error();
    EXPECT_EQ(op.Json()["detached"], verb != rpc::RequestBody::Detach);
    agent_->On(rpc::RequestBody::List, [](rpc::Channel& channel, uint64_t id, rpc::RequestT&) {
      return Respond(channel, id, rpc::MakeResponse(rpc::ListReplyT()));
    });
    ExpectServing();
  }
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
