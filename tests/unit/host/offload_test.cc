// SPDX-License-Identifier: Apache-2.0
//
// Offload and recall as calls of moult.h, with a scripted agent and real userfaultfd.
#include <pthread.h>

#include <thread>

#include "few_files.h"
#include "forbid.h"
#include "is_sanitized.h"
#include "moult/policy.h"
#include "offload_fixture.h"

namespace moult::host::testing {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

TEST_F(OffloadTest, Pages_LeaveRam_AndComeBackAsTheyWere) {
  CreateWithPool();
  const uint64_t before = guest_.AllocatedBytes();
  StartPager();  // offloads, too
  nlohmann::json json;
  ASSERT_EQ(Offload(0, &json), 0) << moult_last_error();
  EXPECT_EQ(json["already_bytes"], kMine * kPageBytes);
  EXPECT_EQ(guest_.AllocatedBytes(), before - kMine * kPageBytes);
  EXPECT_EQ(PagerInfo()["offloaded_bytes"], kMine * kPageBytes);
  EXPECT_THAT(agent_->Verbs(), ElementsAre("List", "Freeze", "Pages", "Freeze"))
      << "as all of it is out, it is to count as untouched";
  ExpectAllIsWell();
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(60);
  // Whoever touched the last page may be here before the thread that brought it has counted it.
  while (PagerInfo()["offloaded_bytes"] != 0) ASSERT_LT(std::chrono::steady_clock::now(), deadline) << PagerInfo().dump();
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
  EXPECT_EQ(json["access"], "page");
  EXPECT_THAT(agent_->Verbs(), ElementsAre("List", "Freeze", "Pages", "Thaw"));
  ExpectAllIsWell();
}

TEST_F(OffloadTest, MostBytes_TakeWhatWasNotAccessedFirst) {
  CreateWithPool();
  StartPager();
  ASSERT_EQ(Recall(MOULT_PREFETCH_ALL), 0) << moult_last_error();
  moult_offload_options offload = MOULT_INIT(offload);
  offload.function = kFunction;
  offload.most_bytes = (kMine - 8) * kPageBytes;
  nlohmann::json json;
  ASSERT_EQ(Offload(offload, &json), 0) << moult_last_error();
  EXPECT_EQ(json["offloaded_bytes"], (kMine - 8) * kPageBytes);
  // Nothing that is cold is left, so the rest is what was accessed.
  ASSERT_EQ(Offload(MOULT_OFFLOAD_COLD_ONLY, &json), 0) << moult_last_error();
  EXPECT_EQ(json["offloaded_bytes"], 0);
  EXPECT_EQ(json["already_bytes"], (kMine - 8) * kPageBytes);
  ASSERT_EQ(Offload(0, &json), 0) << moult_last_error();
  EXPECT_EQ(json["offloaded_bytes"], 8 * kPageBytes);
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
  const auto report_all = [this] {
    moult_pages_options pages = MOULT_INIT(pages);
    pages.function = kFunction;
    pages.flags = MOULT_PAGES_JSON_RUNS;
    OpHandle op;
    EXPECT_EQ(moult_vm_pages(vm_, &pages, nullptr, op.out()), 0);
    EXPECT_EQ(op.Wait(), 0) << moult_last_error();
    return op.Json();
  };
  const auto report = [&] { return report_all()["functions"][0]; };
  EXPECT_EQ(report()["offloaded"], kMine / 4 * kPageBytes);
  const nlohmann::json segments = report()["segments"];
  EXPECT_EQ(segments["init"], (nlohmann::json{{"bytes", kMine / 4 * kPageBytes}, {"offloaded_bytes", kMine / 4 * kPageBytes}}));
  EXPECT_EQ(segments["exec"], (nlohmann::json{{"bytes", kMine / 4 * kPageBytes}, {"offloaded_bytes", 0}}));
  ASSERT_EQ(Offload(), 0) << moult_last_error();
  EXPECT_EQ(report()["offloaded"], kMine * kPageBytes) << "pages of no segment among them";
  uint64_t flagged = 0;
  const nlohmann::json all = report_all();
  ASSERT_EQ(all["flag_names"].size(), 9u);
  ASSERT_EQ(all["flag_names"][8], "offloaded");
  for (const nlohmann::json& run : all["runs"]) flagged += (run[11].get<uint32_t>() & MOULT_PAGE_OFFLOADED) != 0 ? run[1].get<uint64_t>() : 0;
  EXPECT_EQ(flagged, kMine * kPageBytes);
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

TEST_F(OffloadTest, LiesOfAnAgent_MoveNothing) {
  CreateWithPool();
  StartPager();
  ASSERT_EQ(Recall(MOULT_PREFETCH_ALL), 0) << moult_last_error();
  const auto own = [](uint64_t gpa, uint64_t pages, uint64_t function = kFunction) {
    return PageRun(gpa, pages * kPageBytes, 0x900000, 0, function, 300, 0, PageClass::UserPrivate, PageKind::Anonymous, 3,
                   rpc::Segment::Init, PageFlag{});
  };
  constexpr uint64_t kTop = kRamGpa + kRamBytes;
  struct Lie {
    const char* what;
    std::vector<PageRun> runs;
    const char* message;
  };
  const Lie lies[] = {
      {"twice", {own(kRamGpa, 2), own(kRamGpa, 2)}, "is not rising"},
      {"overlapping", {own(kRamGpa, 2), own(kRamGpa + kPageBytes, 2)}, "is not rising"},
      {"below RAM", {own(0, 1)}, "not the guest's RAM"},
      {"above RAM", {own(kTop, 1)}, "not the guest's RAM"},
      {"over the end of RAM", {own(kTop - kPageBytes, 2)}, "not the guest's RAM"},
      {"in the window", {own(kWindowGpa, 1)}, "not the guest's RAM"},
      {"no whole page", {PageRun(kRamGpa + 1, kPageBytes, 0x900000, 0, kFunction, 300, 0, PageClass::UserPrivate, PageKind::Anonymous, 3,
                                 rpc::Segment::Init, PageFlag{})}, "gpa"},
      {"another function's", {own(kRamGpa, 1), own(kRamGpa + kPageBytes, 1, 8)}, "report of function 7 tells of pages of function 8"},
      {"nobody's", {own(kRamGpa, 1, 0)}, "pages of function 0"},
  };
  for (const Lie& lie : lies) {
    SCOPED_TRACE(lie.what);
    ScriptPages(lie.runs, {kFunction, 8});
    agent_->ForgetVerbs();
    EXPECT_EQ(Offload(), -EBADMSG);
    EXPECT_THAT(moult_last_error(), HasSubstr(lie.message));
    EXPECT_EQ(agent_->Verbs().back(), "Thaw") << "it runs on";
    EXPECT_EQ(PagerInfo()["offloaded_bytes"], 0);
    EXPECT_EQ(PagerInfo()["pool_used_bytes"], 0);
  }
  // A template's pages are no lie, and are nobody's to move.
  ScriptPages({own(kRamGpa, 1), PageRun(kWindowGpa, kPageBytes, 0x90000, 0, kFunction, 300, 0, PageClass::Template, PageKind::Window, 1,
                                        rpc::Segment::None, PageFlag{})});
  nlohmann::json json;
  ASSERT_EQ(Offload(0, &json), 0) << moult_last_error();
  EXPECT_EQ(json["offloaded_bytes"], kPageBytes);
  ExpectAllIsWell();
}

TEST_F(OffloadTest, PageThatAnotherFunctionHasOut_IsNotTakenFromIt) {
  CreateWithPool();
  StartPager();  // has all of the function's pages out
  auto runs = Runs();
  std::vector<PageRun> of_other;
  for (const PageRun& run : runs)
    of_other.emplace_back(run.gpa(), run.length(), run.va(), run.file_offset(), 8, run.pid(), run.file(), run.page_class(), run.kind(),
                          run.prot(), run.segment(), run.flags());
  ScriptPages(of_other, {8});
  agent_->On(RequestBody::List, [](rpc::Channel& channel, uint64_t id, rpc::RequestT&) {
    rpc::ListReplyT list;
    list.functions.push_back(std::move(FunctionReply(8).function));
    list.functions[0]->state = rpc::FunctionState::Running;
    list.functions.push_back(std::move(FunctionReply(kFunction).function));
    list.functions[1]->state = rpc::FunctionState::Frozen;
    return Respond(channel, id, rpc::MakeResponse(std::move(list)));
  });
  moult_offload_options offload = MOULT_INIT(offload);
  offload.function = 8;
  nlohmann::json json;
  ASSERT_EQ(Offload(offload, &json), 0) << moult_last_error();
  EXPECT_EQ(json["already_bytes"], kMine * kPageBytes);
  EXPECT_EQ(json["offloaded_bytes"], 0);
  // The liar ends; what it claimed stays out, for its owner.
  ScriptList(rpc::FunctionState::Frozen);
  OpHandle list;
  ASSERT_EQ(moult_vm_list(vm_, nullptr, list.out()), 0);
  ASSERT_EQ(list.Wait(), 0) << moult_last_error();
  EXPECT_EQ(PagerInfo()["offloaded_bytes"], kMine * kPageBytes);
  ExpectAllIsWell();
}

TEST_F(OffloadTest, FullPool_LeavesTheFunctionRunning) {
  CreateWithPool(8 * kPageBytes);
  const uint64_t before = guest_.AllocatedBytes();
  RunPagers();
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
  RunPagers();
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

TEST_F(OffloadTest, ConnectionLostBeforeTheThaw_IsTriedAgainUntilTheAgentIsBack) {
  CreateWithPool();
  StartPager();
  ASSERT_EQ(Recall(MOULT_PREFETCH_ALL), 0) << moult_last_error();
  std::atomic<int> thaws = 0;
  agent_->On(RequestBody::Thaw, [&](rpc::Channel& channel, uint64_t id, rpc::RequestT&) {
    return ++thaws > 3 && testing::Respond(channel, id, rpc::MakeResponse(testing::FunctionReply(kFunction)));
  });
  ASSERT_EQ(Offload(MOULT_OFFLOAD_RUN_ON), 0) << moult_last_error();
  EXPECT_EQ(thaws, 4);
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
  // One alone could not wait for a file, and serve.
  RunPager();
  do EXPECT_EQ(Offload(), -EBUSY);
  while (std::string(moult_last_error()).find("no thread serves") != std::string::npos);
  EXPECT_THAT(moult_last_error(), HasSubstr("one thread alone serves faults of this vm"));
  EXPECT_THAT(moult_last_error(), HasSubstr("let a second run moult_pager_run()"));
  EXPECT_TRUE(agent_->Verbs().empty());
}

// A thread that is cancelled leaves moult_pager_run() as any function: the process goes on, and so do the others.
TEST_F(OffloadTest, PagerThread_ThatIsCancelled_IsNoLongerThere) {
  if (moult::testing::kIsThreadSanitized) GTEST_SKIP() << "this sanitizer does not see what mutexes a cancelled thread holds";
  CreateWithPool();
  StartPager();
  RunPager();
  while (moult_pager_threads(vm_) < 3) std::this_thread::yield();
  ASSERT_EQ(pthread_cancel(pagers_.back().native_handle()), 0);
  pagers_.back().join();
  pagers_.pop_back();
  EXPECT_EQ(moult_pager_threads(vm_), 2);
  ASSERT_EQ(Offload(), 0) << moult_last_error();
  ExpectAllIsWell();
}

TEST_F(OffloadTest, Userfaultfd_ThatIsForbiddenOrMissingIsToldWithItsRemedy) {
  CreateWithPool();
  RunPagers();
  struct Case {
    int error;
    int result;
    const char* message;
  };
  for (const Case& one : {Case{EPERM, -EBUSY, "userfaultfd: EPERM; let this process open /dev/userfaultfd (Linux 6.1 and later), give it CAP_SYS_PTRACE, or set vm.unprivileged_userfaultfd=1"},
                          Case{ENOSYS, -EOPNOTSUPP, "userfaultfd: ENOSYS; the host kernel needs CONFIG_USERFAULTFD"}}) {
    std::thread([&] {
      ASSERT_TRUE(moult::testing::Forbid(moult::testing::kUserfaultfdCalls, one.error));
      int result = 0;
      do {
        agent_->ForgetVerbs();
        result = Offload();
      } while (result == -EBUSY && TooFewPagers());
      EXPECT_EQ(result, one.result);
      EXPECT_THAT(moult_last_error(), HasSubstr(one.message));
    }).join();
    EXPECT_THAT(agent_->Verbs(), ElementsAre("List", "Freeze", "Pages", "Thaw")) << "it runs on";
    EXPECT_EQ(PagerInfo()["offloaded_bytes"], 0);
    EXPECT_EQ(PagerInfo()["pool_used_bytes"], 0);
    ExpectAllIsWell();
  }
  // What was forbidden is allowed now.
  nlohmann::json json;
  ASSERT_EQ(Offload(0, &json), 0) << moult_last_error();
  EXPECT_EQ(json["offloaded_bytes"], kMine * kPageBytes);
  ExpectAllIsWell();
}

TEST_F(OffloadTest, ProcessWithoutDescriptors_IsToldSo_AndTheFunctionRunsOn) {
  CreateWithPool();
  RunPagers();
  OpHandle hello;
  ASSERT_EQ(moult_vm_hello(vm_, nullptr, hello.out()), 0);
  ASSERT_EQ(hello.Wait(), 0) << moult_last_error();  // with the connection that is used later on
  {
    const moult::testing::NoMoreFiles none;
    int result = 0;
    do {
      agent_->ForgetVerbs();
      result = Offload();
    } while (result == -EBUSY);
    EXPECT_EQ(result, -ENOSPC);
    EXPECT_THAT(moult_last_error(), HasSubstr("userfaultfd: EMFILE"));
    EXPECT_THAT(moult_last_error(), HasSubstr("raise the limit of open files (ulimit -n)"));
  }
  EXPECT_THAT(agent_->Verbs(), ElementsAre("List", "Freeze", "Pages", "Thaw")) << "it runs on";
  EXPECT_EQ(PagerInfo()["pool_used_bytes"], 0);
  ASSERT_EQ(Offload(), 0) << moult_last_error();
  ExpectAllIsWell();
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
