// SPDX-License-Identifier: Apache-2.0
//
// An agent that falls silent, or whose connection ends in the midst of a frame, at each step of an operation.
#include <poll.h>

#include "host_test.h"

namespace moult::host::testing {
namespace {

using rpc::RequestBody;
using ::testing::HasSubstr;

class BrokenAgentTest : public HostTest {
 protected:
  void SetUp() override {
    HostTest::SetUp();
    OfferWindow();
    CreateVm();
    MakeTemplate();
  }
  // Each answers as it should.
  void ScriptAll() {
    ScriptCapture();
    ScriptAttach();
    ScriptDetach({rpc::GpaRun(kRamGpa, kPageBytes)});
    // What is asked when the answer to Detach was lost.
    agent_->On(RequestBody::List, [](rpc::Channel& channel, uint64_t id, rpc::RequestT&) {
      rpc::ListReplyT list;
      list.functions.push_back(std::move(FunctionReply(7).function));
      return Respond(channel, id, rpc::MakeResponse(std::move(list)));
    });
  }
  // Answers `verb` with nothing, until the host closes.
  void FallSilentAt(RequestBody verb) {
    agent_->On(verb, [](rpc::Channel& channel, uint64_t, rpc::RequestT&) {
      pollfd closed{channel.fd(), POLLRDHUP, 0};
      EXPECT_EQ(poll(&closed, 1, 20000), 1) << "the host waits for ever";
      return false;
    });
  }
  // What the agent says to `verb`, as bytes: asked of the script over a pipe of our own.
  static std::string FrameOf(uint64_t id, const rpc::ResponseT& response) {
    const std::string payload = rpc::Serialize(response);
    const auto header = rpc::EncodeHeader({rpc::FrameKind::kResponse, id, payload.size()});
    return std::string(header.data(), header.size()) + payload;
  }
  void CutAt(RequestBody verb, rpc::ResponseT response, double share) {
    const auto shared = std::make_shared<rpc::ResponseT>(std::move(response));
    agent_->On(verb, [shared, share](rpc::Channel& channel, uint64_t id, rpc::RequestT&) {
      const std::string frame = FrameOf(id, *shared);
      const auto length = static_cast<size_t>(share * static_cast<double>(frame.size() - 1));
      EXPECT_EQ(send(channel.fd(), frame.data(), length, MSG_NOSIGNAL), static_cast<ssize_t>(length));
      return false;
    });
  }
  rpc::ResponseT Whole(RequestBody verb) {
    rpc::DetachReportT report;
    report.exclusive = {rpc::GpaRun(kRamGpa, kPageBytes)};
    switch (verb) {
      case RequestBody::Capture:
        return rpc::MakeResponse(Report(true));
      case RequestBody::Attach:
        return rpc::MakeResponse(FunctionReply(100, "sample"));
      case RequestBody::DetachPages:
        return rpc::MakeResponse(std::move(report));
      default:
        return rpc::MakeResponse(rpc::DoneT());
    }
  }
  // The operation that `verb` is a step of; 0 or -errno.
  int Do(RequestBody verb, uint32_t timeout_ms) {
    moult_op_options options = MOULT_INIT(options);
    options.timeout_ms = timeout_ms;
    OpHandle op;
    moult_capture_options capture = MOULT_INIT(capture);
    capture.function = 7;
    capture.name = "new";
    moult_attach_options attach = MOULT_INIT(attach);
    attach.name = "sample";
    int begun = 0;
    if (verb == RequestBody::Capture || verb == RequestBody::CaptureEnd) {
      begun = moult_vm_capture(vm_, &capture, &options, op.out());
    } else if (verb == RequestBody::Attach) {
      begun = moult_vm_attach(vm_, &attach, &options, op.out());
    } else {
      begun = moult_vm_detach(vm_, 7, &options, op.out());
    }
    return begun != 0 ? begun : op.Wait();
  }
};

TEST_F(BrokenAgentTest, Silence_EndsWithTheDeadline) {
  for (const auto verb : {RequestBody::Capture, RequestBody::CaptureEnd, RequestBody::Attach, RequestBody::Detach}) {
    ScriptAll();
    const uint64_t before = guest_.AllocatedBytes();
    FallSilentAt(verb);
    // Time for the steps that come before it, too.
    EXPECT_EQ(Do(verb, 2000), -ETIMEDOUT) << rpc::VerbName(verb);
    EXPECT_THAT(moult_last_error(), HasSubstr(rpc::VerbName(verb)));
    EXPECT_EQ(guest_.AllocatedBytes(), before) << rpc::VerbName(verb);
    EXPECT_FALSE(std::filesystem::exists(store_path_ + "/new"));
    ExpectServing();
    ScriptAll();
    EXPECT_EQ(Do(verb, 0), 0) << rpc::VerbName(verb) << ": " << moult_last_error();
    if (std::filesystem::exists(store_path_ + "/new")) {
      EXPECT_EQ(moult_store_remove(store_, "new"), 0);
    }
  }
}

TEST_F(BrokenAgentTest, CutFrame_IsAnError_AndCostsThatConnectionOnly) {
  for (const auto verb : {RequestBody::Capture, RequestBody::CaptureEnd, RequestBody::Attach, RequestBody::Detach}) {
    for (const double share : {0.0, 0.001, 0.3, 0.7, 1.0}) {
      ScriptAll();
      const uint64_t before = guest_.AllocatedBytes();
      CutAt(verb, Whole(verb), share);
      EXPECT_EQ(Do(verb, 5000), -ECONNRESET) << rpc::VerbName(verb) << " at " << share;
      EXPECT_THAT(moult_last_error(), HasSubstr("closed the connection"));
      EXPECT_EQ(guest_.AllocatedBytes(), before) << rpc::VerbName(verb);
      EXPECT_FALSE(std::filesystem::exists(store_path_ + "/new"));
      ExpectServing();
    }
  }
}

// The function has ended by then: what the host does not discard the guest wipes.
TEST_F(BrokenAgentTest, CutFrame_AfterTheEnd_IsNoFailure) {
  for (const auto verb : {RequestBody::DetachPages, RequestBody::DetachEnd}) {
    for (const double share : {0.0, 0.001, 0.3, 0.7, 1.0}) {
      ScriptAll();
      CutAt(verb, Whole(verb), share);
      EXPECT_EQ(Do(verb, 5000), 0) << rpc::VerbName(verb) << " at " << share << ": " << moult_last_error();
      ExpectServing();
    }
  }
}

TEST_F(BrokenAgentTest, CutCopy_LeavesNoTemplate) {
  agent_->On(RequestBody::Capture, [](rpc::Channel& channel, uint64_t id, rpc::RequestT&) {
    if (!Respond(channel, id, rpc::MakeResponse(Report(false)))) return false;
    const std::vector<std::byte> half(sample::kPagesSize / 2);
    EXPECT_TRUE(channel.SendData(id, half, rpc::Clock::now() + std::chrono::seconds(20)).ok());
    return false;
  });
  EXPECT_EQ(Capture("new", MOULT_PAGES_COPY), -ECONNRESET) << moult_last_error();
  EXPECT_FALSE(std::filesystem::exists(store_path_ + "/new"));
  ExpectServing();
}

TEST_F(BrokenAgentTest, HugeCounts_AreRefused_ByTheirNumber) {
  ScriptAll();
  agent_->On(RequestBody::Capture, [](rpc::Channel& channel, uint64_t id, rpc::RequestT&) {
    rpc::CaptureReportT report = Report(true);
    report.pages.assign((4 << 20) + 1, rpc::GpaRun(kRamGpa, kPageBytes));
    return Respond(channel, id, rpc::MakeResponse(std::move(report)));
  });
  EXPECT_EQ(Do(RequestBody::Capture, 0), -EBADMSG);
  EXPECT_THAT(moult_last_error(), HasSubstr("over the limit of 4194304"));
  for (const auto verb : {RequestBody::Capture, RequestBody::Attach}) {
    agent_->On(verb, [](rpc::Channel& channel, uint64_t id, rpc::RequestT&) {
      const auto header = rpc::EncodeHeader({rpc::FrameKind::kResponse, id, uint64_t{1} << 60});
      return write(channel.fd(), header.data(), header.size()) > 0;
    });
    EXPECT_EQ(Do(verb, 0), -ENOSPC) << moult_last_error();
    EXPECT_THAT(moult_last_error(), HasSubstr("payload of 1152921504606846976 bytes"));
  }
  ExpectServing();
}

}  // namespace
}  // namespace moult::host::testing
