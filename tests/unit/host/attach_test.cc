// SPDX-License-Identifier: Apache-2.0
#include <poll.h>

#include <fstream>
#include <set>

#include "host_test.h"

namespace moult::host::testing {
namespace {

using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;

class AttachTest : public HostTest {
 protected:
  void SetUp() override {
    HostTest::SetUp();
    OfferWindow();
    CreateVm();
    MakeTemplate();
    ScriptAttach();
    agent_->ForgetVerbs();
  }
  std::string Pages(const std::string& name = "sample") {
    std::ifstream in(store_path_ + "/" + name + "/pages", std::ios::binary);
    return {std::istreambuf_iterator<char>(in), {}};
  }
  // A new vm, whose agent is asked before pages go.
  void OfferRelease() {
    moult_vm_close(vm_);
    rpc::HelloReplyT hello = WindowHello();
    hello.features.push_back("release");
    agent_->SetHello(std::move(hello));
    agent_->On(rpc::RequestBody::Release, [this](rpc::Channel& channel, uint64_t id, rpc::RequestT& request) {
      EXPECT_EQ(request.body.AsRelease()->length, kSlotEnd);
      released_.push_back(request.body.AsRelease()->offset);
      return RespondDone(channel, id);
    });
    CreateVm();
  }
  // `function` 0: attach.
  int Repurpose(uint64_t function, const char* name) {
    if (function == 0) return Attach(name);
    moult_attach_options attach = MOULT_INIT(attach);
    attach.name = name;
    OpHandle op;
    if (const int failed = moult_vm_repurpose(vm_, function, &attach, nullptr, op.out()); failed != 0)
      return failed;
    return op.Wait();
  }
  std::vector<uint64_t> released_;  // read when the operation has ended
  static uint64_t PrivateDirtyKb(const uint8_t* at) {
    std::ifstream in("/proc/self/smaps");
    std::string line;
    bool inside = false;
    while (std::getline(in, line)) {
      unsigned long start, end, kb;
      if (sscanf(line.c_str(), "%lx-%lx ", &start, &end) == 2)
        inside = start == reinterpret_cast<uint64_t>(at);
      if (inside && sscanf(line.c_str(), "Private_Dirty: %lu kB", &kb) == 1) return kb;
    }
    ADD_FAILURE() << "no mapping begins there";
    return 0;
  }
};

TEST_F(AttachTest, Window_ShowsTheTemplate_AndZerosAfterIt) {
  nlohmann::json json;
  ASSERT_EQ(Attach("sample", MOULT_PAGES_AUTO, &json), 0) << moult_last_error();
  const std::string pages = Pages();
  EXPECT_EQ(std::memcmp(guest_.window, pages.data(), pages.size()), 0);
  for (uint64_t at = pages.size(); at < kSlotEnd; ++at) ASSERT_EQ(guest_.window[at], 0) << at;
  guest_.window[kSlotEnd - 1] = 1;  // No SIGBUS anywhere in the slot.
  EXPECT_EQ(attach_source_, static_cast<int>(rpc::PageSource::Window));
  EXPECT_EQ(json["pages"], "in_place");
  EXPECT_EQ(json["function"]["id"], 100);
  EXPECT_EQ(Info()["windows"][0]["slots"][0]["users"], nlohmann::json::array({100}));
}

TEST_F(AttachTest, List_TellsWhatAFunctionIsShownOfItsTemplate) {
  ASSERT_EQ(Attach("sample"), 0) << moult_last_error();
  agent_->On(rpc::RequestBody::List, [](rpc::Channel& channel, uint64_t id, rpc::RequestT&) {
    rpc::ListReplyT list;
    for (const uint64_t function : {100u, 101u}) {
      list.functions.push_back(std::move(FunctionReply(function).function));
    }
    return Respond(channel, id, rpc::MakeResponse(std::move(list)));
  });
  OpHandle op;
  ASSERT_EQ(moult_vm_list(vm_, nullptr, op.out()), 0);
  ASSERT_EQ(op.Wait(), 0) << moult_last_error();
  const nlohmann::json functions = op.Json()["functions"];
  EXPECT_EQ(functions[0]["template_bytes"], Pages().size()) << "not what the slot is long";
  EXPECT_EQ(functions[1]["template_bytes"], 0);
}

TEST_F(AttachTest, Slot_IsShared_AndFreedWithItsLastFunction) {
  ASSERT_EQ(Attach("sample"), 0);
  ASSERT_EQ(Attach("sample"), 0);
  EXPECT_EQ(attach_offset_, 0u);
  EXPECT_EQ(Info()["windows"][0]["slots"].size(), 1u);
  ScriptDetach({});
  ASSERT_EQ(Detach(100), 0) << moult_last_error();
  EXPECT_EQ(Info()["windows"][0]["slots"].size(), 1u);
  ASSERT_EQ(Detach(101), 0);
  EXPECT_EQ(Info()["windows"][0]["slots"].size(), 0u);
  for (uint64_t at = 0; at < kSlotEnd; ++at) ASSERT_EQ(guest_.window[at], 0) << at;
}

TEST_F(AttachTest, Slot_IsKept_ForItsTemplate_UntilItsPlaceIsNeeded) {
  OfferRelease();
  MakeTemplate("b");
  MakeTemplate("c");
  ScriptDetach({});
  agent_->ForgetVerbs();
  ASSERT_EQ(Repurpose(0, "sample"), 0) << moult_last_error();
  ASSERT_EQ(Repurpose(100, "b"), 0) << moult_last_error();
  EXPECT_EQ(attach_offset_, kSlotEnd);
  EXPECT_EQ(Info()["windows"][0]["slots"].size(), 2u);
  ASSERT_EQ(Repurpose(101, "sample"), 0) << moult_last_error();
  EXPECT_EQ(attach_offset_, 0u);
  EXPECT_THAT(agent_->Verbs(), Not(Contains("Release")));
  // There is room for two: that of "b" goes.
  agent_->On(rpc::RequestBody::List, [](rpc::Channel& channel, uint64_t id, rpc::RequestT&) {
    rpc::ListReplyT list;
    list.functions.push_back(std::move(FunctionReply(102).function));
    return Respond(channel, id, rpc::MakeResponse(std::move(list)));
  });
  ASSERT_EQ(Repurpose(102, "c"), 0) << moult_last_error();
  EXPECT_EQ(attach_offset_, kSlotEnd);
  EXPECT_THAT(released_, ElementsAre(kSlotEnd));
  EXPECT_EQ(std::memcmp(guest_.window + kSlotEnd, Pages("c").data(), Pages("c").size()), 0);
}

TEST_F(AttachTest, Slot_Stays_WhileTheGuestHasItsPages) {
  OfferRelease();
  const std::string pages = Pages();
  ScriptDetach({});
  agent_->On(rpc::RequestBody::Release, [](rpc::Channel& channel, uint64_t id, rpc::RequestT&) {
    return Respond(channel, id, rpc::ErrorResponse(absl::FailedPreconditionError("1 held by something else")));
  });
  ASSERT_EQ(Attach("sample"), 0) << moult_last_error();
  nlohmann::json json;
  ASSERT_EQ(Detach(100, &json), 0) << moult_last_error();
  EXPECT_THAT(json["notes"][0].get<std::string>(), HasSubstr("a template stays mapped: "));
  EXPECT_THAT(json["notes"][0].get<std::string>(), HasSubstr("1 held by something else"));
  EXPECT_EQ(Info()["windows"][0]["slots"][0]["users"].size(), 0u);
  EXPECT_EQ(std::memcmp(guest_.window, pages.data(), pages.size()), 0);
  // It may be used again, as it was, and nothing else comes to its place.
  std::memset(guest_.window, 0xee, 2 * kPageBytes);
  MakeTemplate("b");
  ASSERT_EQ(Attach("b"), 0) << moult_last_error();
  EXPECT_EQ(attach_offset_, kSlotEnd);
  ASSERT_EQ(Attach("sample"), 0) << moult_last_error();
  EXPECT_EQ(attach_offset_, 0u);
  EXPECT_EQ(std::memcmp(guest_.window, pages.data(), pages.size()), 0);
  // A guest that boots anew has nothing.
  ASSERT_EQ(moult_vm_guest_reset(vm_), 0);
  EXPECT_EQ(Info()["windows"][0]["slots"].size(), 0u);
}

TEST_F(AttachTest, Slot_IsFreed_WithDetach_WhenTheGuestSaysSo) {
  OfferRelease();
  ScriptDetach({});
  ASSERT_EQ(Attach("sample"), 0) << moult_last_error();
  agent_->ForgetVerbs();
  ASSERT_EQ(Detach(100), 0) << moult_last_error();
  EXPECT_THAT(agent_->Verbs(), ElementsAre("Detach", "DetachPages", "DetachEnd", "Release"));
  EXPECT_EQ(Info()["windows"][0]["slots"].size(), 0u);
  for (uint64_t at = 0; at < kSlotEnd; ++at) ASSERT_EQ(guest_.window[at], 0) << at;
}

TEST_F(AttachTest, Template_LivesOn_WhenItsFileIsCutOrGone) {
  const std::string pages = Pages();
  ASSERT_EQ(Attach("sample", MOULT_PAGES_IN_PLACE), 0) << moult_last_error();
  const std::string file = store_path_ + "/sample/pages";
  ASSERT_EQ(chmod(file.c_str(), 0600), 0);
  ASSERT_EQ(truncate(file.c_str(), 0), 0);
  // Untouched so far: were it the file's mapping, this would be a SIGBUS.
  EXPECT_EQ(std::memcmp(guest_.window, pages.data(), pages.size()), 0);
  EXPECT_EQ(Attach("sample"), -EBADMSG);
  EXPECT_THAT(moult_last_error(), HasSubstr("pages"));
  EXPECT_EQ(moult_store_remove(store_, "sample"), 0) << moult_last_error();
  EXPECT_EQ(std::memcmp(guest_.window, pages.data(), pages.size()), 0);
}

TEST_F(AttachTest, TwoStores_HaveOneCopyOfATemplate) {
  const auto inode = [](const uint8_t* at) {
    std::ifstream in("/proc/self/maps");
    for (std::string line; std::getline(in, line);) {
      unsigned long start, end, number;
      if (sscanf(line.c_str(), "%lx-%lx %*s %*x %*s %lu", &start, &end, &number) == 3 &&
          start == reinterpret_cast<uint64_t>(at))
        return line.find("/memfd:moult-template") != std::string::npos ? number : 0;
    }
    return 0ul;
  };
  moult_store* again = nullptr;
  ASSERT_EQ(moult_store_open(store_path_.c_str(), nullptr, &again), 0) << moult_last_error();
  FakeGuest other_guest;
  Options options = DefaultOptions(&other_guest);
  options.vm.store = again;
  moult_vm* other = Create(options);
  ASSERT_EQ(Attach("sample"), 0) << moult_last_error();
  ASSERT_EQ(Attach("sample", MOULT_PAGES_AUTO, nullptr, other), 0) << moult_last_error();
  EXPECT_NE(inode(guest_.window), 0u);
  EXPECT_EQ(inode(guest_.window), inode(other_guest.window));
  moult_vm_close(other);
  moult_store_close(again);
}

TEST_F(AttachTest, TwoVms_SharePages_AndWritesStayInOne) {
  FakeGuest other_guest;
  moult_vm* other = Create(DefaultOptions(&other_guest));
  const std::string before = Pages();
  ASSERT_EQ(Attach("sample"), 0);
  ASSERT_EQ(Attach("sample", MOULT_PAGES_AUTO, nullptr, other), 0);
  EXPECT_EQ(PrivateDirtyKb(guest_.window), 0u);
  EXPECT_EQ(PrivateDirtyKb(other_guest.window), 0u);
  std::memset(guest_.window, 0xee, 2 * kPageBytes);  // A guest's kernel writes where it should not.
  EXPECT_EQ(PrivateDirtyKb(guest_.window), 8u);
  EXPECT_EQ(std::memcmp(other_guest.window, before.data(), before.size()), 0);
  EXPECT_EQ(Pages(), before);
  EXPECT_EQ(moult_store_verify(store_, "sample"), 0) << moult_last_error();
  moult_vm_close(other);
}

TEST_F(AttachTest, Pages_AreStreamed_WhenTheGuestHasNoDriver) {
  rpc::HelloReplyT hello;
  hello.version = 1;
  hello.boot_id = "boot-1";
  agent_->SetHello(std::move(hello));
  moult_vm_close(vm_);
  CreateVm();
  nlohmann::json json;
  ASSERT_EQ(Attach("sample", MOULT_PAGES_AUTO, &json), 0) << moult_last_error();
  EXPECT_EQ(json["pages"], "copy");
  EXPECT_THAT(json["notes"][0].get<std::string>(), HasSubstr("copied, because"));
  const std::lock_guard<std::mutex> lock(streamed_mutex_);
  EXPECT_EQ(std::string(streamed_.begin(), streamed_.end()), Pages());
  EXPECT_EQ(Attach("sample", MOULT_PAGES_IN_PLACE), -EBUSY);
  EXPECT_THAT(moult_last_error(), HasSubstr("load the driver"));
}

TEST_F(AttachTest, WindowThatTheGuestLost_MeansCopy_AndIsNoPlace) {
  moult_vm_close(vm_);
  Options options = DefaultOptions(&guest_);
  options.window.gpa = 0;  // The guest places it: then its number alone says which it is.
  vm_ = Create(options);
  rpc::HelloReplyT hello;
  hello.version = 1;
  hello.boot_id = "boot-1";
  hello.features = {"copy", "window"};
  for (int i = 0; i < 2; ++i) hello.windows.push_back(std::make_unique<rpc::WindowT>());
  hello.windows[1]->gpa = kWindowGpa;
  hello.windows[1]->size = kWindowBytes;
  agent_->SetHello(std::move(hello));
  ASSERT_EQ(Attach("sample"), 0) << moult_last_error();
  EXPECT_EQ(attach_source_, static_cast<int>(rpc::PageSource::Stream));
  EXPECT_EQ(Attach("sample", MOULT_PAGES_IN_PLACE), -EBUSY);
  // A report at address 0 is neither in RAM nor in that window.
  agent_->On(rpc::RequestBody::Capture, [](rpc::Channel& channel, uint64_t id, rpc::RequestT&) {
    rpc::CaptureReportT report = Report(true);
    report.pages[3] = rpc::GpaRun(0, kPageBytes);
    return Respond(channel, id, rpc::MakeResponse(std::move(report)));
  });
  EXPECT_EQ(Capture("low", MOULT_PAGES_IN_PLACE), -EBADMSG);
  EXPECT_THAT(moult_last_error(), HasSubstr("not inside one region"));
}

TEST_F(AttachTest, Window_IsRefused_WhenItHasNoRoom) {
  MakeTemplate("b");
  MakeTemplate("c");
  ASSERT_EQ(Attach("sample", MOULT_PAGES_IN_PLACE), 0);
  ASSERT_EQ(Attach("b", MOULT_PAGES_IN_PLACE), 0) << moult_last_error();
  EXPECT_EQ(attach_offset_, kSlotEnd);
  // The agent says that both are alive: there is nothing to give back.
  agent_->On(rpc::RequestBody::List, [](rpc::Channel& channel, uint64_t id, rpc::RequestT&) {
    rpc::ListReplyT list;
    for (const uint64_t function : {100u, 101u})
      list.functions.push_back(std::move(FunctionReply(function).function));
    return Respond(channel, id, rpc::MakeResponse(std::move(list)));
  });
  EXPECT_EQ(Attach("c", MOULT_PAGES_IN_PLACE), -ENOSPC);
  EXPECT_THAT(moult_last_error(), HasSubstr("no free piece"));
  // Now it says that one has ended by itself.
  agent_->On(rpc::RequestBody::List, [](rpc::Channel& channel, uint64_t id, rpc::RequestT&) {
    rpc::ListReplyT list;
    list.functions.push_back(std::move(FunctionReply(101).function));
    return Respond(channel, id, rpc::MakeResponse(std::move(list)));
  });
  EXPECT_EQ(Attach("c", MOULT_PAGES_IN_PLACE), 0) << moult_last_error();
  EXPECT_EQ(attach_offset_, 0u);
}

TEST_F(AttachTest, Slot_IsFree_WhenTheAgentRefuses) {
  agent_->On(rpc::RequestBody::Attach, [](rpc::Channel& channel, uint64_t id, rpc::RequestT&) {
    return Respond(channel, id,
                   rpc::ErrorResponse(absl::FailedPreconditionError("the kernel's vdso differs")));
  });
  EXPECT_EQ(Attach("sample"), -EBUSY);
  EXPECT_THAT(moult_last_error(), HasSubstr("the kernel's vdso differs"));
  EXPECT_EQ(Info()["windows"][0]["slots"].size(), 0u);
}

TEST_F(AttachTest, Template_IsSentInShort_ToAnAgentThatKeepsIt) {
  std::vector<bool> in_short;  // of the requests; read when the operation has ended
  bool forgotten = false;
  agent_->On(rpc::RequestBody::Attach, [&](rpc::Channel& channel, uint64_t id, rpc::RequestT& request) {
    const rpc::AttachT& attach = *request.body.AsAttach();
    EXPECT_EQ(attach.digest.size(), 32u);
    in_short.push_back(attach.image.empty() && attach.manifest.empty());
    if (in_short.back() && std::exchange(forgotten, false))
      return Respond(channel, id, rpc::ErrorResponse(absl::NotFoundError("not kept here")));
    rpc::FunctionReplyT reply = FunctionReply(next_function_++, attach.name);
    reply.kept = true;
    return Respond(channel, id, rpc::MakeResponse(std::move(reply)));
  });
  ASSERT_EQ(Attach("sample"), 0) << moult_last_error();
  ASSERT_EQ(Attach("sample"), 0) << moult_last_error();
  EXPECT_THAT(in_short, ElementsAre(false, true));
  forgotten = true;  // As an agent that has begun anew.
  ASSERT_EQ(Attach("sample"), 0) << moult_last_error();
  EXPECT_THAT(in_short, ElementsAre(false, true, true, false));
  // A copy is always whole.
  ScriptAttach();
  ASSERT_EQ(Attach("sample", MOULT_PAGES_COPY), 0) << moult_last_error();
  EXPECT_EQ(attach_source_, static_cast<int>(rpc::PageSource::Stream));
}

TEST_F(AttachTest, NotFound_IsTheAgentsError_WhenTheTemplateWasSentWhole) {
  int asked = 0;
  agent_->On(rpc::RequestBody::Attach, [&](rpc::Channel& channel, uint64_t id, rpc::RequestT&) {
    ++asked;
    return Respond(channel, id, rpc::ErrorResponse(absl::NotFoundError("no /dev/moult")));
  });
  EXPECT_EQ(Attach("sample"), -ENOENT);
  EXPECT_THAT(moult_last_error(), HasSubstr("no /dev/moult"));
  EXPECT_EQ(asked, 1);
}

TEST_F(AttachTest, Slot_Stays_WhenTheAgentDoesNotSayWhatBecameOfIt) {
  agent_->On(rpc::RequestBody::Attach, [](rpc::Channel&, uint64_t, rpc::RequestT&) { return false; });
  EXPECT_EQ(Attach("sample"), -ECONNRESET);
  EXPECT_EQ(Info()["windows"][0]["slots"].size(), 1u);
  ExpectServing();  // A list, in which no function is.
  EXPECT_EQ(Info()["windows"][0]["slots"].size(), 0u);
}

TEST_F(AttachTest, Tenant_IsNotCrossed_UnlessAllowed) {
  moult_vm_close(vm_);
  Options options = DefaultOptions(&guest_);
  options.vm.tenant = "blue";
  vm_ = Create(options);
  EXPECT_EQ(Attach("sample"), -EACCES);
  EXPECT_THAT(moult_last_error(), HasSubstr("belongs to tenant \"red\", this VM to \"blue\""));
  EXPECT_TRUE(agent_->Verbs().empty());
  moult_vm_close(vm_);
  options.vm.flags = MOULT_VM_CROSS_TENANT;
  vm_ = Create(options);
  EXPECT_EQ(Attach("sample"), 0) << moult_last_error();
}

TEST_F(AttachTest, Template_IsRefused_WhenDamaged_BeforeTheAgentHears) {
  ASSERT_EQ(Attach("sample"), 0);  // Checked once, and remembered.
  agent_->ForgetVerbs();
  const std::string file = store_path_ + "/sample/pages";
  chmod(file.c_str(), 0600);
  std::fstream(file, std::ios::in | std::ios::out | std::ios::binary).seekp(5000).put('x');
  EXPECT_EQ(Attach("sample"), -EBADMSG);
  EXPECT_THAT(moult_last_error(), HasSubstr("does not match its digest"));
  std::filesystem::resize_file(file, 4096);
  EXPECT_EQ(Attach("sample"), -EBADMSG);
  EXPECT_THAT(moult_last_error(), HasSubstr("the manifest says"));
  EXPECT_EQ(Attach("none"), -ENOENT);
  EXPECT_TRUE(agent_->Verbs().empty());
}

TEST_F(AttachTest, Repurpose_GivesMemoryBack_BesideTheNewFunction) {
  ASSERT_EQ(Attach("sample"), 0);
  MakeTemplate("b");
  ScriptDetach({rpc::GpaRun(kRamGpa, kPageBytes)});
  agent_->ForgetVerbs();
  moult_attach_options attach = MOULT_INIT(attach);
  attach.name = "b";
  OpHandle op;
  ASSERT_EQ(moult_vm_repurpose(vm_, 100, &attach, nullptr, op.out()), 0);
  ASSERT_EQ(op.Wait(), 0) << moult_last_error();
  EXPECT_THAT(agent_->Verbs(), ElementsAre("Detach", "Attach"));
  EXPECT_FALSE(op.Json()["settled"]);
  const moult_result numbers = op.Numbers();
  EXPECT_EQ(numbers.function, 101u);
  EXPECT_EQ(numbers.detached, 1u);
  EXPECT_EQ(numbers.discarded_bytes, 0u);
  // Its template stays in the window as long as the guest may have it mapped.
  EXPECT_EQ(Info()["reclaiming"], nlohmann::json::array({100}));
  const auto users = [this] {
    std::set<uint64_t> all;
    const nlohmann::json info = Info();
    for (const auto& slot : info["windows"][0]["slots"]) {
      for (const auto& user : slot["users"]) all.insert(user.get<uint64_t>());
    }
    return all;
  };
  EXPECT_THAT(users(), ElementsAre(100, 101));
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(20);
  while (!Info()["reclaiming"].empty() && std::chrono::steady_clock::now() < deadline) {
    pollfd ready{moult_vm_fd(vm_), POLLIN, 0};
    poll(&ready, 1, 100);
    ASSERT_GE(moult_vm_process(vm_), 0);
  }
  EXPECT_THAT(agent_->Verbs(), ElementsAre("Detach", "Attach", "DetachPages", "DetachEnd"));
  EXPECT_TRUE(committed_);
  EXPECT_EQ(guest_.ram[0], 0);
  EXPECT_EQ(Info()["counters"]["reclaimed_bytes"], kPageBytes);
  EXPECT_THAT(users(), ElementsAre(101));
}

TEST_F(AttachTest, Repurpose_GivesMemoryBackFirst_WhenAsked) {
  ASSERT_EQ(Attach("sample"), 0);
  MakeTemplate("b");
  ScriptDetach({rpc::GpaRun(kRamGpa, kPageBytes)});
  agent_->ForgetVerbs();
  moult_attach_options attach = MOULT_INIT(attach);
  attach.name = "b";
  attach.flags = MOULT_ATTACH_SETTLED;
  OpHandle op;
  ASSERT_EQ(moult_vm_repurpose(vm_, 100, &attach, nullptr, op.out()), 0);
  ASSERT_EQ(op.Wait(), 0) << moult_last_error();
  EXPECT_THAT(agent_->Verbs(), ElementsAre("Detach", "DetachPages", "DetachEnd", "Attach"));
  EXPECT_TRUE(op.Json()["settled"]);
  EXPECT_EQ(op.Numbers().discarded_bytes, kPageBytes);
  EXPECT_TRUE(Info()["reclaiming"].empty());
  OpHandle refused;
  attach.flags = 2;
  EXPECT_EQ(moult_vm_repurpose(vm_, 101, &attach, nullptr, refused.out()), -EINVAL);
  EXPECT_THAT(moult_last_error(), HasSubstr("flags"));
}

TEST_F(AttachTest, Repurpose_TriesAgain_WhenTheGuestHasNoMemoryYet) {
  ASSERT_EQ(Attach("sample"), 0);
  MakeTemplate("b");
  ScriptDetach({rpc::GpaRun(kRamGpa, kPageBytes)});
  auto attempts = std::make_shared<std::atomic<int>>(0);
  agent_->On(rpc::RequestBody::Attach, [attempts](rpc::Channel& channel, uint64_t id, rpc::RequestT&) {
    if (++*attempts == 1) return Respond(channel, id, rpc::ErrorResponse(absl::ResourceExhaustedError("fork: ENOMEM")));
    return Respond(channel, id, rpc::MakeResponse(FunctionReply(101, "b")));
  });
  agent_->ForgetVerbs();
  moult_attach_options attach = MOULT_INIT(attach);
  attach.name = "b";
  OpHandle op;
  ASSERT_EQ(moult_vm_repurpose(vm_, 100, &attach, nullptr, op.out()), 0);
  ASSERT_EQ(op.Wait(), 0) << moult_last_error();
  EXPECT_THAT(agent_->Verbs(), ElementsAre("Detach", "Attach", "DetachPages", "DetachEnd", "Attach"));
  EXPECT_TRUE(op.Json()["settled"]);
}

TEST_F(AttachTest, Repurpose_UsesTheRoomThatDetachGives) {
  MakeTemplate("b");
  MakeTemplate("c");
  ASSERT_EQ(Attach("sample"), 0);
  ASSERT_EQ(Attach("b"), 0);
  agent_->On(rpc::RequestBody::List, [](rpc::Channel& channel, uint64_t id, rpc::RequestT&) {
    rpc::ListReplyT list;
    for (const uint64_t function : {100u, 101u})
      list.functions.push_back(std::move(FunctionReply(function).function));
    return Respond(channel, id, rpc::MakeResponse(std::move(list)));
  });
  ScriptDetach({});
  moult_attach_options attach = MOULT_INIT(attach);
  attach.name = "c";
  attach.pages = MOULT_PAGES_IN_PLACE;
  OpHandle op;
  ASSERT_EQ(moult_vm_repurpose(vm_, 100, &attach, nullptr, op.out()), 0);
  ASSERT_EQ(op.Wait(), 0) << moult_last_error();
  EXPECT_EQ(attach_offset_, 0u);
}

TEST_F(AttachTest, Repurpose_LeavesTheFunction_WhenTheTemplateIsBad) {
  ASSERT_EQ(Attach("sample"), 0);
  agent_->ForgetVerbs();
  moult_attach_options attach = MOULT_INIT(attach);
  attach.name = "none";
  OpHandle op;
  ASSERT_EQ(moult_vm_repurpose(vm_, 100, &attach, nullptr, op.out()), 0);
  EXPECT_EQ(op.Wait(), -ENOENT);
  EXPECT_FALSE(op.Json()["detached"]);
  EXPECT_TRUE(agent_->Verbs().empty());
}

}  // namespace
}  // namespace moult::host::testing
