// SPDX-License-Identifier: Apache-2.0
//
// One call at a time moves a function's pages: another is refused, with a remedy, but an offload goes before what is fetched
// of a function that runs.
#include "offload_fixture.h"
#include "pool/file/page_file.h"
#include "stalling_pool.h"

namespace moult::host::testing {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

class MovingTest : public OffloadTest {
 protected:
  // What blocks is done by threads, so that the calls of others have their turn meanwhile.
  void CreateWithStallingPool() {
    auto file = PageFile::Create(root_, 1 << 20);
    ASSERT_TRUE(file.ok()) << file.status();
    stalling_ = std::make_shared<StallingPool>(std::move(*file));
    VmConfig config;
    config.work = [this](Op* op) { workers_.emplace_back([worker = op->worker()] { worker->Run(); }); };
    CreateWith(stalling_, std::move(config));
  }
  void TearDown() override {
    if (stalling_ != nullptr) stalling_->Open();
    for (std::thread& worker : workers_) worker.join();
    OffloadTest::TearDown();
  }

  std::shared_ptr<StallingPool> stalling_;
  std::vector<std::thread> workers_;
};

TEST_F(MovingTest, Offload_StopsWhatARecallOfAllFetchesBehind_AndGoesOnWhenThatHasEnded) {
  CreateWithStallingPool();
  moult_recall_options recall = MOULT_INIT(recall);
  recall.function = kFunction;
  recall.prefetch = MOULT_PREFETCH_ALL;
  OpHandle recalled;
  ASSERT_EQ(moult_vm_recall(vm_, &recall, nullptr, recalled.out()), 0) << moult_last_error();
  while (!stalling_->has_reader()) ASSERT_EQ(moult_op_wait(recalled.get(), 1), -ETIME) << moult_last_error();
  EXPECT_THAT(agent_->Verbs(), ElementsAre("Thaw")) << "it runs, and the rest of it comes";
  agent_->ForgetVerbs();

  moult_offload_options offload = MOULT_INIT(offload);
  offload.function = kFunction;
  moult_op_options impatient = MOULT_INIT(impatient);
  impatient.timeout_ms = 20;
  OpHandle late, offloaded;
  ASSERT_EQ(moult_vm_offload(vm_, &offload, &impatient, late.out()), 0) << moult_last_error();
  EXPECT_EQ(late.Wait(), -ETIMEDOUT);
  EXPECT_THAT(moult_last_error(), HasSubstr("function 7: a recall of it has not stopped in time; its pool may be slow"));
  ASSERT_EQ(moult_vm_offload(vm_, &offload, nullptr, offloaded.out()), 0) << moult_last_error();
  EXPECT_EQ(moult_op_wait(offloaded.get(), 20), -ETIME);
  EXPECT_EQ(Recall(MOULT_PREFETCH_NONE), -EBUSY);
  EXPECT_THAT(moult_last_error(), HasSubstr("function 7: an offload or recall of it goes on; try again when it has ended"));
  EXPECT_THAT(agent_->Verbs(), IsEmpty()) << "the function was stopped, and waits for a pool";
  EXPECT_EQ(moult_op_state(recalled.get()), MOULT_OP_RUNNING);
  EXPECT_EQ(PagerInfo()["offloaded_bytes"], kMine * kPageBytes);

  stalling_->Open();
  ASSERT_EQ(recalled.Wait(), 0) << moult_last_error() << "; what was on its way was all";
  EXPECT_EQ(recalled.Json()["prefetched_bytes"], kMine * kPageBytes);
  ASSERT_EQ(offloaded.Wait(), 0) << moult_last_error();
  EXPECT_EQ(offloaded.Json()["offloaded_bytes"], kMine * kPageBytes);
  EXPECT_THAT(agent_->Verbs(), ElementsAre("List", "Freeze", "Pages", "Freeze"));
  ExpectAllIsWell();
}

}  // namespace
}  // namespace moult::host::testing
