// SPDX-License-Identifier: Apache-2.0
//
// Offload and recall as calls of moult.h, with a scripted agent and real userfaultfd.
#include <thread>

#include "host_test.h"
#include "moult/pager.h"
#include "moult/pages.h"
#include "moult/policy.h"
#include "moult/protocol/page_runs.h"

namespace moult::host::testing {
namespace {

using rpc::PageClass;
using rpc::PageFlag;
using rpc::PageKind;
using rpc::PageRun;
using rpc::RequestBody;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr uint64_t kFunction = 7;
constexpr uint64_t kMine = 64;  // pages of RAM, of the function

class OffloadTest : public HostTest {
 protected:
  void SetUp() override {
    HostTest::SetUp();
    rpc::HelloReplyT hello;
    hello.version = 1;
    hello.features = {"copy", "pages"};
    agent_->SetHello(std::move(hello));
    for (const auto verb : {RequestBody::Freeze, RequestBody::Thaw}) {
      agent_->On(verb, [](rpc::Channel& channel, uint64_t id, rpc::RequestT&) {
        return Respond(channel, id, rpc::MakeResponse(FunctionReply(kFunction)));
      });
    }
    ScriptList(rpc::FunctionState::Running);
    ScriptPages();
  }
  void TearDown() override {
    StopPager();
    HostTest::TearDown();
  }
  void CreateWithPool(uint64_t pool_bytes = 0) {
    Options options = DefaultOptions(&guest_);
    const std::string pool = "file:" + root_;
    options.vm.pool = pool.c_str();
    options.vm.pool_bytes = pool_bytes;
    vm_ = Create(options);
  }
  void StartPager() {
    pager_ = std::thread([this] { EXPECT_EQ(moult_pager_run(vm_), 0) << moult_last_error(); });
    // An offload wants to see it there.
    while (Offload() == -EBUSY && std::string(moult_last_error()).find("no thread serves") != std::string::npos) std::this_thread::yield();
    agent_->ForgetVerbs();
  }
  void StopPager() {
    if (!pager_.joinable()) return;
    EXPECT_EQ(moult_pager_stop(vm_), 0);
    pager_.join();
  }
  void ScriptList(rpc::FunctionState state) {
    agent_->On(RequestBody::List, [state](rpc::Channel& channel, uint64_t id, rpc::RequestT&) {
      rpc::ListReplyT list;
      list.functions.push_back(std::move(FunctionReply(kFunction).function));
      list.functions[0]->state = state;
      return Respond(channel, id, rpc::MakeResponse(std::move(list)));
    });
  }
  // Every other page from 0 on is the function's private one, in falling order of addresses, of each segment in turn; one
  // more is page cache.
  static std::vector<PageRun> Runs() {
    std::vector<PageRun> runs;
    for (uint64_t i = 0; i < kMine; ++i) {
      const auto flags = i < 8 ? PageFlag::Accessed : PageFlag{};
      runs.emplace_back(kRamGpa + 2 * i * kPageBytes, kPageBytes, 0x10000 + (kMine - i) * kPageBytes, 0, kFunction, 300, 0,
                        PageClass::UserPrivate, PageKind::Anonymous, 3, static_cast<rpc::Segment>(i % 4), flags);
    }
    runs.emplace_back(kRamGpa + 512 * kPageBytes, kPageBytes, 0x900000, 0, kFunction, 300, 0, PageClass::UserFile, PageKind::File, 5,
                      rpc::Segment::None, PageFlag{});
    return runs;
  }
  void ScriptPages() {
    agent_->On(RequestBody::Pages, [](rpc::Channel& channel, uint64_t id, rpc::RequestT& request) {
      rpc::PagesReportT report;
      // Of all of the guest, once the function has ended: nobody has anything.
      const bool whole = request.body.AsPages()->function == 0;
      std::vector<PageRun> runs = Runs();
      if (whole) {
        runs = {PageRun(kRamGpa, kRamBytes, 0, 0, 0, 0, 0, PageClass::Free, PageKind::None, 0, rpc::Segment::None, PageFlag{})};
        report.ram = {rpc::GpaRun(kRamGpa, kRamBytes)};
      }
      report.functions.push_back(std::make_unique<rpc::PagesFunctionT>());
      report.functions[0]->id = kFunction;
      report.processes.push_back(std::make_unique<rpc::PagesProcessT>());
      report.processes[0]->pid = 300;
      report.run_count = runs.size();
      return Respond(channel, id, rpc::MakeResponse(std::move(report))) &&
             channel.SendData(id, {reinterpret_cast<const std::byte*>(runs.data()), runs.size() * sizeof(PageRun)},
                              rpc::Clock::now() + std::chrono::seconds(20)).ok();
    });
  }
  int Offload(uint32_t flags = 0, nlohmann::json* json = nullptr) {
    moult_offload_options offload = MOULT_INIT(offload);
    offload.function = kFunction;
    offload.flags = flags;
    return Offload(offload, json);
  }
  int Offload(const moult_offload_options& offload, nlohmann::json* json) {
    OpHandle op;
    if (const int failed = moult_vm_offload(vm_, &offload, nullptr, op.out()); failed != 0) return failed;
    const int result = op.Wait();
    if (json != nullptr) *json = op.Json();
    return result;
  }
  int Recall(uint32_t prefetch, nlohmann::json* json = nullptr) {
    moult_recall_options recall = MOULT_INIT(recall);
    recall.function = kFunction;
    recall.prefetch = prefetch;
    OpHandle op;
    if (const int failed = moult_vm_recall(vm_, &recall, nullptr, op.out()); failed != 0) return failed;
    const int result = op.Wait();
    if (json != nullptr) *json = op.Json();
    return result;
  }
  nlohmann::json PagerInfo() { return Info()["pager"]; }
  void ExpectAllIsWell() {
    for (uint64_t i = 0; i < kRamBytes; ++i) ASSERT_EQ(guest_.ram[i], static_cast<uint8_t>(i * 7 + i / kPageBytes + 1)) << i;
  }

  std::thread pager_;
};

TEST_F(OffloadTest, Pages_LeaveRam_AndComeBackAsTheyWere) {
  CreateWithPool();
  const uint64_t before = guest_.AllocatedBytes();
  StartPager();  // offloads, too
  nlohmann::json json;
  ASSERT_EQ(Offload(0, &json), 0) << moult_last_error();
  EXPECT_EQ(json["already_bytes"], kMine * kPageBytes);
  EXPECT_EQ(guest_.AllocatedBytes(), before - kMine * kPageBytes);
  EXPECT_EQ(PagerInfo()["offloaded_bytes"], kMine * kPageBytes);
  EXPECT_THAT(agent_->Verbs(), ElementsAre("List", "Freeze", "Pages"));
  ExpectAllIsWell();
  EXPECT_EQ(PagerInfo()["offloaded_bytes"], 0);
  EXPECT_GT(PagerInfo()["faults"], 0);
  EXPECT_EQ(guest_.AllocatedBytes(), before);
}

TEST_F(OffloadTest, Recall_ThawsTheFunction_AndFetchesAll) {
  CreateWithPool();
  StartPager();
  nlohmann::json json;
  ASSERT_EQ(Recall(MOULT_PREFETCH_ALL, &json), 0) << moult_last_error();
  EXPECT_EQ(json["prefetched_bytes"], kMine * kPageBytes);
  EXPECT_EQ(json["left_bytes"], 0);
  EXPECT_THAT(agent_->Verbs(), ElementsAre("Thaw"));
  EXPECT_EQ(PagerInfo()["faults"], 0);
  ExpectAllIsWell();
}

TEST_F(OffloadTest, ColdOnly_LeavesWhatWasAccessed_AndRunOnThaws) {
  CreateWithPool();
  StartPager();
  ASSERT_EQ(Recall(MOULT_PREFETCH_ALL), 0) << moult_last_error();
  agent_->ForgetVerbs();
  nlohmann::json json;
  ASSERT_EQ(Offload(MOULT_OFFLOAD_COLD_ONLY | MOULT_OFFLOAD_RUN_ON, &json), 0) << moult_last_error();
  EXPECT_EQ(json["offloaded_bytes"], (kMine - 8) * kPageBytes);
  EXPECT_THAT(agent_->Verbs(), ElementsAre("List", "Freeze", "Pages", "Thaw"));
  ExpectAllIsWell();
}

TEST_F(OffloadTest, Segment_GoesAlone_InStepsOfTheBytesWanted) {
  CreateWithPool();
  StartPager();
  ASSERT_EQ(Recall(MOULT_PREFETCH_ALL), 0) << moult_last_error();
  moult_offload_options offload = MOULT_INIT(offload);
  offload.function = kFunction;
  offload.segments = 1u << MOULT_SEGMENT_INIT;
  offload.most_bytes = 10 * kPageBytes;
  nlohmann::json json;
  ASSERT_EQ(Offload(offload, &json), 0) << moult_last_error();
  EXPECT_EQ(json["offloaded_bytes"], 10 * kPageBytes);
  ASSERT_EQ(Offload(offload, &json), 0) << moult_last_error();
  EXPECT_EQ(json["offloaded_bytes"], (kMine / 4 - 10) * kPageBytes);
  EXPECT_EQ(json["already_bytes"], 0);
  moult_pages_options pages = MOULT_INIT(pages);
  pages.function = kFunction;
  OpHandle op;
  ASSERT_EQ(moult_vm_pages(vm_, &pages, nullptr, op.out()), 0);
  ASSERT_EQ(op.Wait(), 0) << moult_last_error();
  const nlohmann::json segments = op.Json()["functions"][0]["segments"];
  EXPECT_EQ(segments["init"], (nlohmann::json{{"bytes", kMine / 4 * kPageBytes}, {"offloaded_bytes", kMine / 4 * kPageBytes}}));
  EXPECT_EQ(segments["exec"], (nlohmann::json{{"bytes", kMine / 4 * kPageBytes}, {"offloaded_bytes", 0}}));
  ExpectAllIsWell();
}

TEST_F(OffloadTest, SegmentsAndBytes_ThatMakeNoSense_AreRefused) {
  CreateWithPool();
  moult_offload_options offload = MOULT_INIT(offload);
  offload.function = kFunction;
  offload.segments = 1u << MOULT_SEGMENTS;
  EXPECT_EQ(Offload(offload, nullptr), -EINVAL);
  EXPECT_THAT(moult_last_error(), HasSubstr("offload: unknown segments"));
  offload.segments = 0;
  offload.most_bytes = 100;
  EXPECT_EQ(Offload(offload, nullptr), -EINVAL);
  EXPECT_THAT(moult_last_error(), HasSubstr("most_bytes is no multiple of a page"));
}

TEST_F(OffloadTest, FullPool_LeavesTheFunctionRunning) {
  CreateWithPool(8 * kPageBytes);
  const uint64_t before = guest_.AllocatedBytes();
  pager_ = std::thread([this] { EXPECT_EQ(moult_pager_run(vm_), 0); });
  int result;
  while ((result = Offload()) == -EBUSY) agent_->ForgetVerbs();
  EXPECT_EQ(result, -ENOSPC);
  EXPECT_EQ(moult_last_error_code(), MOULT_RESOURCE_EXHAUSTED);
  EXPECT_THAT(agent_->Verbs(), ElementsAre("List", "Freeze", "Pages", "Thaw"));
  EXPECT_EQ(guest_.AllocatedBytes(), before);
  EXPECT_EQ(PagerInfo()["pool_used_bytes"], 0);
  ExpectAllIsWell();
}

TEST_F(OffloadTest, FailedOffload_LeavesAFrozenFunctionFrozen) {
  CreateWithPool(8 * kPageBytes);
  ScriptList(rpc::FunctionState::Frozen);
  pager_ = std::thread([this] { EXPECT_EQ(moult_pager_run(vm_), 0); });
  int result;
  while ((result = Offload()) == -EBUSY) agent_->ForgetVerbs();
  EXPECT_EQ(result, -ENOSPC);
  EXPECT_THAT(agent_->Verbs(), ElementsAre("List", "Freeze", "Pages"));
}

TEST_F(OffloadTest, LostConnection_ThawsTheFunctionOverAnother) {
  CreateWithPool();
  StartPager();
  ASSERT_EQ(Recall(MOULT_PREFETCH_ALL), 0) << moult_last_error();
  agent_->On(RequestBody::Pages, [](rpc::Channel&, uint64_t, rpc::RequestT&) { return false; });
  agent_->ForgetVerbs();
  EXPECT_EQ(Offload(), -ECONNRESET);
  EXPECT_THAT(agent_->Verbs(), ElementsAre("List", "Freeze", "Pages", "Thaw"));
}

TEST_F(OffloadTest, NeedsAPool_AndAThread) {
  CreateVm();
  EXPECT_EQ(Offload(), -EBUSY);
  EXPECT_THAT(moult_last_error(), HasSubstr("this vm has no pool for pages"));
  EXPECT_EQ(Recall(MOULT_PREFETCH_ALL), -EBUSY);
  moult_vm_close(vm_);
  Options bare = DefaultOptions(&guest_);
  bare.window.hva = nullptr;
  vm_ = Create(bare);
  EXPECT_EQ(moult_pager_run(vm_), -EBUSY);
  EXPECT_EQ(moult_pager_stop(vm_), -EBUSY);
  EXPECT_THAT(moult_last_error(), HasSubstr("neither a pool for pages and RAM regions, nor a window"));
  moult_vm_close(vm_);
  CreateWithPool();
  EXPECT_EQ(Offload(), -EBUSY);
  EXPECT_THAT(moult_last_error(), HasSubstr("no thread serves faults of this vm; let one run moult_pager_run()"));
  EXPECT_TRUE(agent_->Verbs().empty());
}

TEST_F(OffloadTest, Pool_IsOfAKnownKind) {
  for (const char* pool : {"rdma://node:1/", "/tmp", "file:"}) {
    Options options = DefaultOptions(&guest_);
    options.vm.pool = pool;
    options.vm.regions = &options.region;
    options.vm.region_count = 1;
    options.vm.region_size = sizeof(options.region);
    moult_vm* vm = nullptr;
    EXPECT_EQ(moult_vm_create(&options.vm, &vm), -EINVAL) << pool;
    EXPECT_THAT(moult_last_error(), HasSubstr(pool));
  }
}

TEST_F(OffloadTest, Detach_GivesThePoolsRoomBack_AndFetchesNothing) {
  CreateWithPool();
  StartPager();
  std::vector<rpc::GpaRun> exclusive;
  for (const PageRun& run : Runs()) {
    if (run.page_class() == PageClass::UserPrivate) exclusive.emplace_back(run.gpa(), run.length());
  }
  ScriptDetach(exclusive);
  ASSERT_EQ(Detach(kFunction), 0) << moult_last_error();
  EXPECT_EQ(PagerInfo()["pool_used_bytes"], 0);
  EXPECT_EQ(PagerInfo()["faults"], 0);
  EXPECT_EQ(PagerInfo()["prefetched_pages"], 0);
  for (const rpc::GpaRun& run : exclusive) {
    for (uint64_t i = 0; i < run.length(); ++i) ASSERT_EQ(guest_.ram[run.gpa() - kRamGpa + i], 0);
  }
}

TEST_F(OffloadTest, RoomOfAFunctionThatEnded_IsGivenBack_WhenTheGuestHasFreedIt) {
  CreateWithPool();
  StartPager();
  ScriptList(rpc::FunctionState::Ended);
  OpHandle op;
  ASSERT_EQ(moult_vm_list(vm_, nullptr, op.out()), 0);
  ASSERT_EQ(op.Wait(), 0) << moult_last_error();
  EXPECT_EQ(PagerInfo()["pool_used_bytes"], 0);
  EXPECT_EQ(PagerInfo()["prefetched_pages"], 0);
}

TEST_F(OffloadTest, GuestReset_ForgetsWhatIsOut) {
  CreateWithPool();
  StartPager();
  ASSERT_EQ(moult_vm_guest_reset(vm_), 0);
  EXPECT_EQ(PagerInfo()["pool_used_bytes"], 0);
  EXPECT_EQ(guest_.ram[0], 0);
}

TEST_F(OffloadTest, Read_BringsBackWhatIsOut) {
  CreateWithPool();
  StartPager();
  StopPager();  // nobody serves the library's own reads
  std::vector<uint8_t> bytes(3 * kPageBytes);
  ASSERT_EQ(moult_vm_read(vm_, kRamGpa + 100, bytes.data(), bytes.size()), 0) << moult_last_error();
  for (uint64_t i = 0; i < bytes.size(); ++i) {
    const uint64_t at = i + 100;
    ASSERT_EQ(bytes[i], static_cast<uint8_t>(at * 7 + at / kPageBytes + 1)) << i;
  }
}

}  // namespace
}  // namespace moult::host::testing
