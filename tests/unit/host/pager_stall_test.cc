// SPDX-License-Identifier: Apache-2.0
//
// A pool that does not answer, as a file server that has gone: nobody but who waits for a page may wait with
// it.
#include "pager_fixture.h"
#include "stalling_pool.h"

namespace moult::host::testing {
namespace {

using ::testing::HasSubstr;

class PagerStall : public PagerTest {
 protected:
  std::shared_ptr<PagePool> PoolOf(std::shared_ptr<PageFile> file) override {
    return stalling_ = std::make_shared<StallingPool>(std::move(file));
  }
  void StartOut(uint64_t pages) {
    Start(pages);
    FillRam();
    Offload(Straight(0, pages));
  }
  std::shared_ptr<StallingPool> stalling_;
};
INSTANTIATE_TEST_SUITE_P(Kinds, PagerStall, ::testing::Values(Kind::kMemfd, Kind::kAnonymous), KindName);

TEST_P(PagerStall, Drop_LeavesOut_WhatOthersFetch) {
  StartOut(64);
  std::thread toucher([&] { EXPECT_TRUE(PageIsWhole(10)); });
  stalling_->AwaitReader();
  const auto left = pager_->Drop(Range(0, 64));
  ASSERT_TRUE(left.ok()) << left.status();
  EXPECT_THAT(*left, ::testing::Contains(Range(10).start));
  EXPECT_LE(left->size(), 8u);
  EXPECT_EQ(Word(40), 0u);  // That one is dropped.
  stalling_->Open();
  toucher.join();
  AwaitPool(0);
}

TEST_P(PagerStall, DropOwner_DoesNotWait) {
  StartOut(64);
  std::thread toucher([&] { EXPECT_TRUE(PageIsWhole(10)); });
  stalling_->AwaitReader();
  EXPECT_FALSE(pager_->DropOwner(kOwner));
  EXPECT_EQ(Word(40), 0u);
  stalling_->Open();
  toucher.join();
  AwaitPool(0);
  DropAll();
  EXPECT_EQ(pager_->owner_stats(kOwner).faults, 0u);  // Forgotten.
}

TEST_P(PagerStall, Recall_EndsWithTheReadThatWasUnderWay_WhenCancelled) {
  StartOut(1024);
  std::stop_source source;
  absl::Status recalled;
  std::thread recall([&] { recalled = pager_->Recall(kOwner, Prefetch::kAll, source.get_token()); });
  stalling_->AwaitReader();
  source.request_stop();
  stalling_->Open();
  recall.join();
  EXPECT_EQ(recalled.code(), absl::StatusCode::kCancelled);
  EXPECT_LT(HostBytes(), 512 * kPage);
  ExpectWhole(0, 1024);
}

}  // namespace
}  // namespace moult::host::testing
