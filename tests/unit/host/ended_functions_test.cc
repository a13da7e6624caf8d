// SPDX-License-Identifier: Apache-2.0
//
// Functions that end with pages in the pool: by a call, by themselves, with their guest.
#include "absl/cleanup/cleanup.h"
#include "offload_fixture.h"
#include "pool/bounded_pool.h"
#include "pool/file/page_file.h"
#include "stalling_pool.h"

namespace moult::host::testing {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::MatchesRegex;

class EndedTest : public OffloadTest {
 protected:
  int List() {
    OpHandle op;
    EXPECT_EQ(moult_vm_list(vm_, nullptr, op.out()), 0) << moult_last_error();
    return op.Wait();
  }
  int Sweep(nlohmann::json* json = nullptr) {
    OpHandle op;
    EXPECT_EQ(moult_vm_sweep(vm_, nullptr, op.out()), 0) << moult_last_error();
    const int result = op.Wait();
    if (json != nullptr) *json = op.Json();
    return result;
  }
  // On a machine that stands still for a while even a pool that answers may be too late.
  int SweepUntilThePoolAnswers() {
    int result = Sweep();
    for (int tries = 1; tries < 50 && result == -ETIMEDOUT; ++tries) result = Sweep();
    return result;
  }
  // What the function has that nobody else has.
  static std::vector<rpc::GpaRun> Exclusive() {
    std::vector<rpc::GpaRun> exclusive;
    for (const PageRun& run : Runs()) {
      if (run.page_class() == PageClass::UserPrivate) exclusive.emplace_back(run.gpa(), run.length());
    }
    return exclusive;
  }
  // Another process listens there, of a guest that has booted again without a word of the VMM's.
  void BootAgain() {
    agent_.reset();
    agent_ = std::make_unique<FakeAgent>(root_ + "/agent", 1075);
    rpc::HelloReplyT hello;
    hello.version = 1;
    hello.boot_id = "boot-2";
    hello.features = {"copy", "pages"};
    agent_->SetHello(std::move(hello));
    ScriptList(rpc::FunctionState::Running);
    agent_->On(RequestBody::Freeze, [](rpc::Channel& channel, uint64_t id, rpc::RequestT&) {
      return Respond(channel, id, rpc::MakeResponse(FunctionReply(kFunction)));
    });
  }
};

TEST_F(EndedTest, Detach_GivesThePoolsRoomBack_AndFetchesNothing) {
  CreateWithPool();
  StartPager();
  const std::vector<rpc::GpaRun> exclusive = Exclusive();
  ScriptDetach(exclusive);
  ASSERT_EQ(Detach(kFunction), 0) << moult_last_error();
  EXPECT_EQ(PagerInfo()["pool_used_bytes"], 0);
  EXPECT_EQ(PagerInfo()["faults"], 0);
  EXPECT_EQ(PagerInfo()["prefetched_pages"], 0);
  EXPECT_EQ(moult_vm_unswept(vm_), 0u) << "nothing is left to be given back";
  for (const rpc::GpaRun& run : exclusive) {
    for (uint64_t i = 0; i < run.length(); ++i) ASSERT_EQ(guest_.ram[run.gpa() - kRamGpa + i], 0);
  }
}

TEST_F(EndedTest, RoomOfAFunctionThatEnded_IsThereForTheNext_WithoutAList) {
  constexpr uint64_t kNext = 8;
  CreateWithPool(kMine * kPageBytes);
  StartPager();
  EXPECT_EQ(PagerInfo()["pool_used_bytes"], kMine * kPageBytes) << "it is full";
  agent_->On(RequestBody::List, [](rpc::Channel& channel, uint64_t id, rpc::RequestT&) {
    rpc::ListReplyT list;
    list.functions.push_back(std::move(FunctionReply(kFunction).function));
    list.functions[0]->state = rpc::FunctionState::Ended;
    list.functions.push_back(std::move(FunctionReply(kNext).function));
    list.functions[1]->state = rpc::FunctionState::Running;
    return Respond(channel, id, rpc::MakeResponse(std::move(list)));
  });
  std::vector<PageRun> runs;
  for (uint64_t i = 0; i < kMine; ++i) {
    runs.emplace_back(kRamGpa + (2 * i + 1) * kPageBytes, kPageBytes, 0x10000 + i * kPageBytes, 0, kNext, 300, 0, PageClass::UserPrivate,
                      PageKind::Anonymous, 3, rpc::Segment::None, PageFlag{});
  }
  ScriptPages(runs, {kNext});
  moult_offload_options offload = MOULT_INIT(offload);
  offload.function = kNext;
  nlohmann::json json;
  ASSERT_EQ(Offload(offload, &json), 0) << moult_last_error();
  EXPECT_EQ(json["offloaded_bytes"], kMine * kPageBytes);
}

TEST_F(EndedTest, GuestReset_ForgetsWhatIsOut) {
  CreateWithPool();
  StartPager();
  ASSERT_EQ(moult_vm_guest_reset(vm_), 0);
  EXPECT_EQ(moult_vm_boots(vm_), 1u);
  EXPECT_EQ(PagerInfo()["pool_used_bytes"], 0);
  EXPECT_EQ(guest_.ram[0], 0);
}

TEST_F(EndedTest, Look_FindsThatOneHasEnded_AndTheSweepDropsWhatTheGuestHasFreed) {
  CreateWithPool();
  StartPager();
  EXPECT_EQ(moult_vm_unswept(vm_), 0u);
  ScriptList(rpc::FunctionState::Ended);
  ASSERT_EQ(List(), 0) << moult_last_error();
  EXPECT_EQ(moult_vm_unswept(vm_), 1u);
  EXPECT_EQ(PagerInfo()["pool_used_bytes"], kMine * kPageBytes) << "a look waits for no pool";
  EXPECT_EQ(Info()["offloaded"][0]["ended"], true);
  nlohmann::json json;
  ASSERT_EQ(Sweep(&json), 0) << moult_last_error();
  EXPECT_THAT(json["swept"], ElementsAre(kFunction));
  EXPECT_EQ(moult_vm_unswept(vm_), 0u);
  EXPECT_THAT(Info()["offloaded"], IsEmpty());
  EXPECT_EQ(PagerInfo()["pool_used_bytes"], 0);
  EXPECT_EQ(PagerInfo()["prefetched_pages"], 0);
}

TEST_F(EndedTest, Kill_IsEnoughToKnowIt) {
  CreateWithPool();
  StartPager();
  agent_->On(RequestBody::Kill, [](rpc::Channel& channel, uint64_t id, rpc::RequestT&) { return RespondDone(channel, id); });
  OpHandle kill;
  ASSERT_EQ(moult_vm_kill(vm_, kFunction, nullptr, kill.out()), 0);
  ASSERT_EQ(kill.Wait(), 0) << moult_last_error();
  EXPECT_EQ(moult_vm_unswept(vm_), 1u);
  agent_->ForgetVerbs();
  ASSERT_EQ(Sweep(), 0) << moult_last_error();
  EXPECT_THAT(agent_->Verbs(), ElementsAre("Pages"));
  EXPECT_EQ(PagerInfo()["pool_used_bytes"], 0);
  agent_->ForgetVerbs();
  ASSERT_EQ(Sweep(), 0) << moult_last_error();
  EXPECT_THAT(agent_->Verbs(), IsEmpty()) << "there is nothing to be given back";
}

class DeadPoolTest : public EndedTest {
 protected:
  void SetUp() override {
    EndedTest::SetUp();
    agent_->On(RequestBody::Kill, [this](rpc::Channel& channel, uint64_t id, rpc::RequestT&) {
      if (refuses_) return Respond(channel, id, rpc::ErrorResponse(absl::FailedPreconditionError("capture goes on")));
      if (at_kill_) at_kill_();
      ScriptList(rpc::FunctionState::Ended);
      return RespondDone(channel, id);
    });
  }
  // A page that is out is lost after so long only.
  void CreateWithDeadPool(std::chrono::milliseconds read_deadline = std::chrono::minutes(5),
                          std::chrono::milliseconds read_limit = std::chrono::milliseconds(20)) {
    auto file = PageFile::Create(root_, 1 << 20);
    ASSERT_TRUE(file.ok()) << file.status();
    file_ = std::move(*file);
    stalling_ = std::make_shared<StallingPool>(file_);
    const auto threads = ServingThreads::Create();
    ASSERT_TRUE(threads.ok()) << threads.status();
    VmConfig config;
    config.threads = *threads;
    config.read_deadline = read_deadline;
    config.log = [this](int, const std::string& line) {
      const std::lock_guard<std::mutex> lock(log_mutex_);
      log_ += line + "\n";
    };
    CreateWith(std::make_shared<BoundedPool>(stalling_, *threads, BoundedPool::Limits{read_limit, std::chrono::seconds(10)}), std::move(config));
  }
  void TearDown() override {
    if (stalling_ != nullptr) stalling_->Open();
    EndedTest::TearDown();
  }
  int Kill() {
    OpHandle kill;
    EXPECT_EQ(moult_vm_kill(vm_, kFunction, nullptr, kill.out()), 0) << moult_last_error();
    return kill.Wait();
  }
  std::string Log() {
    const std::lock_guard<std::mutex> lock(log_mutex_);
    return log_;
  }
  // It has ended, and is to be swept: the first half of RAM is free, the second is the kernel's by now.
  void EndWithHalfInUse() {
    ScriptList(rpc::FunctionState::Ended);
    ASSERT_EQ(List(), 0) << moult_last_error();
    whole_ = {PageRun(kRamGpa, kMine * kPageBytes, 0, 0, 0, 0, 0, PageClass::Free, PageKind::None, 0, rpc::Segment::None, PageFlag{}),
              PageRun(kRamGpa + kMine * kPageBytes, kRamBytes - kMine * kPageBytes, 0, 0, 0, 0, 0, PageClass::System, PageKind::Slab, 0,
                      rpc::Segment::None, PageFlag{})};
    ScriptPages();
  }
  void ExpectHalfIsBack() {
    EXPECT_EQ(moult_vm_unswept(vm_), 0u);
    EXPECT_EQ(PagerInfo()["pool_used_bytes"], 0);
    for (uint64_t i = kMine * kPageBytes; i < kRamBytes; ++i) ASSERT_EQ(guest_.ram[i], static_cast<uint8_t>(i * 7 + i / kPageBytes + 1)) << i;
  }
  // What the function has there is out.
  uint8_t Byte(uint64_t page) const { return __atomic_load_n(guest_.ram + page * kPageBytes, __ATOMIC_RELAXED); }

  std::shared_ptr<PageFile> file_;
  std::shared_ptr<StallingPool> stalling_;
  std::atomic<bool> refuses_{false};
  std::function<void()> at_kill_;
  std::mutex log_mutex_;
  std::string log_;
};

// The guest's kernel gives its page frames to somebody before the agent has said that it is dead.
TEST_F(DeadPoolTest, Kill_LetsNobodyWaitForThePool) {
  CreateWithDeadPool();
  at_kill_ = [this] { EXPECT_EQ(Byte(0), 0); };
  ASSERT_EQ(Kill(), 0) << moult_last_error();
  EXPECT_THAT(agent_->Verbs(), ElementsAre("List", "Freeze", "Kill"));
  for (uint64_t page = 2; page < kMine; page += 8) EXPECT_EQ(Byte(page), 0);
  EXPECT_EQ(PagerInfo()["lost_pages"], 0);
  EXPECT_EQ(PagerInfo()["zeroed_pages"], 1 + (kMine - 2 + 7) / 8);
  const char* const said = "function 7 is ended: page at ";
  while (Log().find(said) == std::string::npos) std::this_thread::yield();  // after the page is there
  EXPECT_THAT(Log(), MatchesRegex(".* is zeros: pool file:.* does not answer.*; so is what it does not give next.*"));
  EXPECT_EQ(Log().find(said), Log().rfind(said)) << "told once";
  EXPECT_EQ(moult_vm_unswept(vm_), 1u);
}

TEST_F(DeadPoolTest, RefusedKill_LeavesItAsItWas) {
  CreateWithDeadPool();
  refuses_ = true;
  EXPECT_EQ(Kill(), -EBUSY);
  EXPECT_THAT(moult_last_error(), HasSubstr("capture goes on"));
  EXPECT_THAT(agent_->Verbs(), ElementsAre("List", "Freeze", "Kill", "List", "Thaw"));
  stalling_->Open();
  ExpectAllIsWell();
}

TEST_F(DeadPoolTest, FrozenFunction_StaysSo_WhenItsKillIsRefused) {
  ScriptList(rpc::FunctionState::Frozen);
  CreateWithDeadPool();
  refuses_ = true;
  EXPECT_EQ(Kill(), -EBUSY);
  EXPECT_THAT(agent_->Verbs(), ElementsAre("List", "Freeze", "Kill", "List"));
}

// What was touched while it was to be ended is zeros.
TEST_F(DeadPoolTest, FunctionThatWouldFindZeros_DoesNotRunAgain) {
  CreateWithDeadPool();
  refuses_ = true;
  agent_->On(RequestBody::Kill, [this](rpc::Channel& channel, uint64_t id, rpc::RequestT&) {
    EXPECT_EQ(Byte(0), 0);
    return Respond(channel, id, rpc::ErrorResponse(absl::FailedPreconditionError("capture goes on")));
  });
  EXPECT_EQ(Kill(), -EBUSY);
  EXPECT_THAT(moult_last_error(), HasSubstr("capture goes on; function 7 stands still: function 7 was to be ended, and zeros were given"));
  EXPECT_THAT(agent_->Verbs(), ElementsAre("List", "Freeze", "Kill", "List"));
  OpHandle thaw;
  ASSERT_EQ(moult_vm_thaw(vm_, kFunction, nullptr, thaw.out()), 0);
  EXPECT_EQ(thaw.Wait(), -EBADMSG);
  EXPECT_EQ(moult_last_error_code(), MOULT_DATA_LOSS);
  EXPECT_THAT(moult_last_error(), HasSubstr("it must not run again; end it"));
  EXPECT_EQ(Recall(MOULT_PREFETCH_NONE), -EBADMSG);
}

// It ended by itself, which the host hears of by a list.
TEST_F(DeadPoolTest, WhoWaits_IsServed_WhenTheEndIsKnown) {
  CreateWithDeadPool();
  std::atomic<int> got{-1};
  std::thread toucher([&] { got = Byte(0); });
  stalling_->AwaitReader();
  EXPECT_EQ(got, -1);
  ScriptList(rpc::FunctionState::Ended);
  ASSERT_EQ(List(), 0) << moult_last_error();
  toucher.join();
  EXPECT_EQ(got, 0);
  EXPECT_EQ(PagerInfo()["lost_pages"], 0);
}

// And the embedder, to end it because of a page that is lost, is told by the agent that there is nothing to be ended.
TEST_F(DeadPoolTest, LostPageOfAFunctionThatHasEnded_IsZeros_WhenTheAgentSaysSo) {
  CreateWithDeadPool(std::chrono::milliseconds(200));
  std::atomic<int> got{-1};
  std::thread toucher([&] { got = Byte(0); });
  while (PagerInfo()["lost_pages"] == 0) std::this_thread::yield();
  ScriptList(rpc::FunctionState::Ended);
  refuses_ = true;
  EXPECT_EQ(Kill(), -EBUSY);
  toucher.join();
  EXPECT_EQ(got, 0);
  EXPECT_EQ(PagerInfo()["lost_pages"], 0);
}

TEST_F(DeadPoolTest, DetachWithoutADriver_LetsTheGuestWipe) {
  CreateWithDeadPool();
  ScriptDetach({});
  ASSERT_EQ(Detach(kFunction), 0) << moult_last_error();
  EXPECT_THAT(agent_->Verbs(), ::testing::IsSupersetOf({"List", "Freeze", "Detach"}));
  EXPECT_EQ(Byte(0), 0);
  EXPECT_EQ(PagerInfo()["lost_pages"], 0);
}

// A thread that fetches one may have to wait for a CPU.
TEST_F(DeadPoolTest, Detach_DiscardsAllElse_BeforeItWaitsForPagesOnTheirWay) {
  CreateWithDeadPool(std::chrono::minutes(5), std::chrono::minutes(5));
  std::thread toucher([&] { (void)Byte(0); });
  stalling_->AwaitReader();
  // One range: half of it is out, the other half is there.
  constexpr uint64_t kBytes = 2 * kMine * kPageBytes;
  ScriptDetach({rpc::GpaRun(kRamGpa, kBytes)});
  const uint64_t before = guest_.AllocatedBytes();
  OpHandle detach;
  ASSERT_EQ(moult_vm_detach(vm_, kFunction, nullptr, detach.out()), 0) << moult_last_error();
  do {
    EXPECT_EQ(List(), 0) << moult_last_error();
  } while (moult_op_state(detach.get()) == MOULT_OP_RUNNING && guest_.AllocatedBytes() > before - kBytes / 2);
  EXPECT_EQ(moult_op_state(detach.get()), MOULT_OP_RUNNING) << "it waits for what is fetched";
  EXPECT_LE(PagerInfo()["pool_used_bytes"], 8 * kPageBytes) << "that, and its neighbours";
  stalling_->Open();
  EXPECT_EQ(detach.Wait(), 0) << moult_last_error();
  EXPECT_FALSE(detach.Json().contains("notes")) << detach.Json();
  EXPECT_EQ(PagerInfo()["pool_used_bytes"], 0);
  toucher.join();
  for (uint64_t i = 0; i < kBytes; ++i) ASSERT_EQ(guest_.ram[i], 0);
}

// And where they never come, the guest wipes what it holds.
TEST_F(DeadPoolTest, Detach_EndsWithANote_WhenPagesStayOnTheirWay) {
  CreateWithDeadPool(std::chrono::minutes(5), std::chrono::minutes(5));
  std::thread toucher([&] { (void)Byte(0); });
  stalling_->AwaitReader();
  ScriptDetach(Exclusive());
  OpHandle detach;
  ASSERT_EQ(moult_vm_detach(vm_, kFunction, nullptr, detach.out()), 0) << moult_last_error();
  EXPECT_EQ(detach.Wait(), 0) << moult_last_error();
  EXPECT_THAT(detach.Json()["notes"][0].get<std::string>(),
              MatchesRegex("its memory was not given back, the guest wipes it: on their way from or to the pool file:.*, which does not answer, "
                           "stay pages: [1-8]"));
  EXPECT_EQ(detach.Json()["discarded_bytes"], 0);
  EXPECT_THAT(agent_->Verbs(), ::testing::Contains("DetachEnd"));
  stalling_->Open();
  toucher.join();
}

// What others have of it comes back, but for what is damaged, which is zeros: the sweep ends.
TEST_F(DeadPoolTest, DamagedPage_IsZeros_WhenItIsSweptForLong) {
  CreateWithDeadPool(std::chrono::milliseconds(200));
  stalling_->Open();
  ASSERT_EQ(pwrite(file_->fd(), "damage", 6, 5 * kPageBytes), 6);
  ScriptList(rpc::FunctionState::Ended);
  ASSERT_EQ(List(), 0) << moult_last_error();
  whole_ = {PageRun(kRamGpa, kRamBytes, 0, 0, 0, 0, 0, PageClass::System, PageKind::Slab, 0, rpc::Segment::None, PageFlag{})};
  ScriptPages();
  ASSERT_EQ(SweepUntilThePoolAnswers(), 0) << moult_last_error();
  EXPECT_EQ(moult_vm_unswept(vm_), 0u);
  EXPECT_EQ(PagerInfo()["pool_used_bytes"], 0);
  uint64_t zeros = 0;
  for (uint64_t page = 0; page < 2 * kMine; ++page) {
    const bool is_zero = std::all_of(guest_.ram + page * kPageBytes, guest_.ram + (page + 1) * kPageBytes, [](uint8_t byte) { return byte == 0; });
    if (is_zero) ++zeros;
    for (uint64_t i = page * kPageBytes; !is_zero && i < (page + 1) * kPageBytes; ++i)
      ASSERT_EQ(guest_.ram[i], static_cast<uint8_t>(i * 7 + i / kPageBytes + 1)) << i;
  }
  EXPECT_EQ(zeros, 1u);
}

// What others have of it is fetched: in vain for as long as the pool does not answer, which nobody else waits for.
TEST_F(DeadPoolTest, HoldsUpTheSweepAlone) {
  CreateWithDeadPool();
  ASSERT_NO_FATAL_FAILURE(EndWithHalfInUse());
  OpHandle sweep;
  ASSERT_EQ(moult_vm_sweep(vm_, nullptr, sweep.out()), 0) << moult_last_error();
  do {
    ASSERT_EQ(List(), 0) << moult_last_error();
  } while (PagerInfo()["pool_used_bytes"] == kMine * kPageBytes);
  EXPECT_EQ(moult_op_state(sweep.get()), MOULT_OP_RUNNING) << "it waits for the pool, and a list does not wait for it";
  EXPECT_EQ(PagerInfo()["pool_used_bytes"], kMine / 2 * kPageBytes) << "what is free is given back";
  stalling_->Open();
  EXPECT_EQ(sweep.Wait(), 0) << moult_last_error();
  ExpectHalfIsBack();
}

// And not for ever.
TEST_F(DeadPoolTest, SweepEnds_AndIsMadeAgain) {
  CreateWithDeadPool(std::chrono::milliseconds(400));
  ASSERT_NO_FATAL_FAILURE(EndWithHalfInUse());
  do {  // until a read has begun: a thread that waits for a CPU says nothing about the pool
    ASSERT_EQ(Sweep(), -ETIMEDOUT);
  } while (!stalling_->has_reader());
  EXPECT_THAT(moult_last_error(), HasSubstr("room of function 7, which has ended, in the pool file:" + root_));
  EXPECT_THAT(moult_last_error(), HasSubstr("does not answer"));
  EXPECT_THAT(moult_last_error(), HasSubstr("look at its file system"));
  EXPECT_EQ(moult_vm_unswept(vm_), 1u);

  stalling_->Open();
  EXPECT_EQ(SweepUntilThePoolAnswers(), 0) << moult_last_error();
  ExpectHalfIsBack();
}

// A call for a function of the old guest is not made for one of the new that has its number.
TEST_F(EndedTest, GuestThatBootsAgainUnseen_TakesItsFunctionsWithIt) {
  CreateWithPool();
  StartPager();
  BootAgain();
  OpHandle freeze;
  ASSERT_EQ(moult_vm_freeze(vm_, kFunction, nullptr, freeze.out()), 0);
  EXPECT_EQ(freeze.Wait(), -EAGAIN);
  EXPECT_EQ(moult_last_error_code(), MOULT_ABORTED);
  EXPECT_THAT(moult_last_error(), HasSubstr("the guest has booted again"));
  EXPECT_THAT(agent_->Verbs(), IsEmpty());
  EXPECT_EQ(moult_vm_boots(vm_), 1u);
  EXPECT_EQ(PagerInfo()["pool_used_bytes"], 0);
  EXPECT_THAT(Info()["offloaded"], IsEmpty());
  EXPECT_EQ(moult_vm_unswept(vm_), 0u);
  OpHandle again;
  ASSERT_EQ(moult_vm_freeze(vm_, kFunction, nullptr, again.out()), 0);
  EXPECT_EQ(again.Wait(), 0) << moult_last_error();
  EXPECT_THAT(agent_->Verbs(), ElementsAre("Freeze"));
  EXPECT_EQ(moult_vm_boots(vm_), 1u);
}

// What is about none of them finds the new guest as it is.
TEST_F(EndedTest, GuestThatBootsAgainUnseen_IsListed) {
  CreateWithPool();
  StartPager();
  BootAgain();
  EXPECT_EQ(List(), 0) << moult_last_error();
  EXPECT_EQ(moult_vm_boots(vm_), 1u);
  EXPECT_EQ(PagerInfo()["pool_used_bytes"], 0);
}

}  // namespace
}  // namespace moult::host::testing
