// SPDX-License-Identifier: Apache-2.0
//
// A pool whose medium stops to answer, or is slow: no call waits longer than it should, and every page is right.
#include "pool/bounded_pool.h"

#include "moult/base/status.h"
#include "end_thread.h"
#include "pager_fixture.h"
#include "passing_pool.h"

namespace moult::host::testing {
namespace {

using std::chrono::milliseconds;
using ::testing::HasSubstr;

// What a file system does that waits for a server: calls begin, and end when it is told so, or after a while.
class StubbornPool : public PassingPool {
 public:
  explicit StubbornPool(std::shared_ptr<PagePool> pool) : PassingPool(std::move(pool)) {}
  void Close() { closed_ = true; }
  void Open() { closed_ = false; }
  // The thread that begins the next call ends.
  void Kill() { kill_ = true; }
  void set_slow(milliseconds slow) { slow_ = slow; }
  int begun() const { return begun_; }
  void AwaitOne() const {
    while (inside_ == 0) std::this_thread::yield();
  }

  absl::Status Write(absl::Span<const std::byte> pages, absl::Span<PoolSlot> slots) override {
    Wait();
    return PassingPool::Write(pages, slots);
  }
  absl::Status Read(absl::Span<const PoolSlot> slots, absl::Span<std::byte> pages) override {
    ++begun_;
    Wait();
    return PassingPool::Read(slots, pages);
  }
  void Free(absl::Span<const PoolSlot> slots) override {
    Wait();
    PassingPool::Free(slots);
  }

 private:
  void Wait() {
    if (kill_.exchange(false)) EndThread();
    ++inside_;
    std::this_thread::sleep_for(slow_.load());
    while (closed_) std::this_thread::sleep_for(milliseconds(1));
    --inside_;
  }

  std::atomic<bool> closed_{false};
  std::atomic<bool> kill_{false};
  std::atomic<milliseconds> slow_{milliseconds(0)};
  std::atomic<int> inside_{0};
  std::atomic<int> begun_{0};
};

class BoundedPoolTest : public PagerTest {
 protected:
  std::shared_ptr<PagePool> PoolOf(std::shared_ptr<PageFile> file) override {
    stubborn_ = std::make_shared<StubbornPool>(std::move(file));
    return bounded_ = std::make_shared<BoundedPool>(
               stubborn_, threads_, BoundedPool::Limits{.read = milliseconds(20), .write = write_});
  }
  void StartWith(milliseconds read_deadline, int threads = 2, milliseconds ended_deadline = milliseconds(200)) {
    PagerConfig config;
    config.read_deadline = read_deadline;
    config.ended_deadline = ended_deadline;
    Start(kPages, threads, kPoolBytes, config);
    FillRam();
  }
  void TearDown() override {
    if (stubborn_ != nullptr) stubborn_->Open();
    PagerTest::TearDown();
  }
  // What a guest's daemon does that gets a page which another has given back: no pool has it.
  void ExpectHolesAreFilled(uint64_t page) const {
    ASSERT_TRUE(memory_->Release(Range(page)).ok());
    const auto begin = std::chrono::steady_clock::now();
    EXPECT_EQ(Word(page), 0u);
    EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(5));
  }

  static constexpr uint64_t kPages = 256;
  // Time for all that is to succeed, on a busy disk, too.
  milliseconds write_ = std::chrono::seconds(10);
  std::shared_ptr<StubbornPool> stubborn_;
  std::shared_ptr<BoundedPool> bounded_;
};
INSTANTIATE_TEST_SUITE_P(Kinds, BoundedPoolTest, ::testing::Values(Kind::kMemfd, Kind::kAnonymous), KindName);

TEST_P(BoundedPoolTest, PageThatIsWaitedFor_IsLost_AndOtherFaultsAreServed) {
  StartWith(std::chrono::seconds(2));
  Offload(Straight(0, 64));
  Offload(Straight(64, 64), kOwner + 1);
  stubborn_->Close();
  std::atomic<uint64_t> got{1};
  std::thread toucher([&] { got = Word(10); });
  stubborn_->AwaitOne();
  for (uint64_t page = 128; page < 160; ++page) ExpectHolesAreFilled(page);
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(30);
  while (Lost() == 0) ASSERT_LT(std::chrono::steady_clock::now(), deadline);
  EXPECT_EQ(lost_[0].gpa, kGuestGpa + 10 * kPage);
  EXPECT_EQ(lost_[0].why.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(lost_[0].why.message()), ::testing::MatchesRegex(".* is lost: pool file:.* does not answer: a read that began [0-9]+ ms ago has not ended; look at its file system"));
  EXPECT_EQ(got, 1u);
  ASSERT_TRUE(pager_->Resolve(kOwner, Resolution::kZero).ok());
  toucher.join();
  EXPECT_EQ(got, 0u);
  for (uint64_t page = 160; page < 192; ++page) ExpectHolesAreFilled(page);
  // The function has been killed: as it ends it waits no more.
  const auto begin = std::chrono::steady_clock::now();
  for (const uint64_t page : {uint64_t{20}, uint64_t{30}, uint64_t{40}}) EXPECT_EQ(Word(page), 0u);
  EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(5));
  EXPECT_EQ(Lost(), 1u);
  // It answers again: what it has of others is as it was.
  stubborn_->Open();
  ExpectWhole(64, 64);
}

TEST_P(BoundedPoolTest, CallsEnd_AndNothingIsHalfDone_WhileItDoesNotAnswer) {
  StartWith(milliseconds(200));
  Offload(Straight(0, 128));
  const uint64_t used = bounded_->used_bytes();
  stubborn_->Close();
  const absl::Status recalled = pager_->Recall(kOwner, Prefetch::kAll);
  EXPECT_EQ(recalled.code(), absl::StatusCode::kDeadlineExceeded) << recalled;
  EXPECT_THAT(std::string(recalled.message()), HasSubstr("does not answer"));
  EXPECT_EQ(pager_->Populate(Range(0, 4)).code(), absl::StatusCode::kDeadlineExceeded);
  // Which a thread may have taken up a moment after nobody waited any more.
  stubborn_->AwaitOne();
  const auto offloaded = pager_->Offload(kOwner + 1, Straight(128, 128));
  EXPECT_EQ(offloaded.status().code(), absl::StatusCode::kUnavailable) << offloaded.status();
  EXPECT_THAT(std::string(offloaded.status().message()), HasSubstr("does not answer: a write is not begun while 1 earlier that took too long goes on; look at its file system"));
  ExpectWhole(128, 128);
  EXPECT_EQ(bounded_->used_bytes(), used);
  EXPECT_TRUE(pager_->Drop(Range(0, 64))->empty());
  EXPECT_TRUE(pager_->DropOwner(kOwner + 1));
  stubborn_->Open();
  absl::Status again;
  for (int tries = 0; tries < 50; ++tries) {  // The late read ends first.
    if (again = pager_->Recall(kOwner, Prefetch::kAll); !absl::IsDeadlineExceeded(again)) break;
  }
  EXPECT_TRUE(again.ok()) << again;
  ExpectWhole(64, 64);
  AwaitPool(0);
}

// Whoever gets a page frame of a function that has ended waits no longer than all of them together may.
TEST_P(BoundedPoolTest, PagesOfAFunctionThatHasEnded_AreZeros_WithoutBeingLost) {
  StartWith(std::chrono::seconds(60));
  Offload(Straight(0, 64));
  Offload(Straight(64, 64), kOwner + 1);
  stubborn_->Close();
  const auto begin = std::chrono::steady_clock::now();
  std::atomic<uint64_t> got{1};
  std::thread toucher([&] { got = Word(10); });
  stubborn_->AwaitOne();
  EXPECT_EQ(got, 1u);
  pager_->End(kOwner);
  toucher.join();
  EXPECT_EQ(got, 0u);
  for (const uint64_t page : {uint64_t{20}, uint64_t{30}, uint64_t{40}}) EXPECT_EQ(Word(page), 0u);
  EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(20));
  EXPECT_EQ(Lost(), 0u);
  EXPECT_FALSE(pager_->Revive(kOwner)) << "it would find zeros";
  // What it has of others is as it was, and what it gives again comes.
  stubborn_->Open();
  ExpectWhole(64, 64);
  ASSERT_TRUE(pager_->Populate(Range(48, 8)).ok());
  ExpectWhole(48, 8);
}

TEST_P(BoundedPoolTest, LostPagesOfAFunctionThatHasEnded_AreZerosAtOnce) {
  StartWith(milliseconds(300));
  Offload(Straight(0, 64));
  stubborn_->Close();
  std::atomic<uint64_t> got{1};
  std::thread toucher([&] { got = Word(10); });
  while (Lost() == 0) std::this_thread::yield();
  pager_->End(kOwner);
  toucher.join();
  EXPECT_EQ(got, 0u);
  EXPECT_EQ(Word(20), 0u);
  EXPECT_EQ(Lost(), 1u);
  EXPECT_EQ(pager_->Resolve(kOwner, Resolution::kZero).code(), absl::StatusCode::kNotFound);
}

// Others may have some of them.
TEST_P(BoundedPoolTest, SlowPool_GivesThePagesOfAFunctionThatHasEnded) {
  StartWith(std::chrono::seconds(30), 2, std::chrono::seconds(10));
  Offload(Straight(0, kPages));
  stubborn_->set_slow(milliseconds(70));  // more than is waited for, and less than the time of one that has ended
  pager_->End(kOwner);
  ExpectWhole(0, 64);
  EXPECT_TRUE(pager_->Revive(kOwner)) << "nothing was zeros";
  ExpectWhole(64, 64);
  stubborn_->set_slow(milliseconds(0));
  EXPECT_TRUE(pager_->RecallAll().ok());
  ExpectWhole(0, kPages);
  AwaitPool(0);
}

TEST_P(BoundedPoolTest, FunctionThatHasNotEndedAfterAll_LosesItsPagesAsEver) {
  StartWith(milliseconds(600));
  Offload(Straight(0, 64));
  pager_->End(kOwner);
  EXPECT_TRUE(pager_->Revive(kOwner));
  stubborn_->Close();
  std::atomic<uint64_t> got{1};
  std::thread toucher([&] { got = Word(10); });
  while (Lost() == 0) std::this_thread::yield();
  EXPECT_EQ(got, 1u);
  ASSERT_TRUE(pager_->Resolve(kOwner, Resolution::kZero).ok());
  toucher.join();
}

// The write goes on when nobody waits for it any more. Where it writes nobody else's page may be by then.
TEST_P(BoundedPoolTest, LateWrite_HarmsNoPageOfAnother) {
  write_ = milliseconds(200);
  StartWith(std::chrono::seconds(30), 3);
  const auto offload = [&](uint64_t page, uint64_t pages, uint64_t owner) {
    absl::Status moved;
    while (absl::IsUnavailable(moved = pager_->Offload(owner, Straight(page, pages)).status())) continue;  // A write may be late without need.
    ASSERT_TRUE(moved.ok()) << moved;
  };
  offload(0, 64, kOwner);
  stubborn_->Close();
  EXPECT_FALSE(pager_->Offload(kOwner + 1, Straight(64, 64)).ok());
  stubborn_->Open();
  for (int round = 0; round < 8; ++round) {
    offload(128, 128, kOwner + 2);
    EXPECT_TRUE(pager_->Recall(kOwner + 2, Prefetch::kAll).ok());
    ExpectWhole(128, 128);
  }
  EXPECT_TRUE(pager_->RecallAll().ok());
  ExpectWhole(0, kPages);
  AwaitPool(0);
}

TEST_P(BoundedPoolTest, SlowPool_GivesEveryPage) {
  StartWith(std::chrono::seconds(30));
  Offload(Straight(0, kPages));
  stubborn_->set_slow(milliseconds(70));  // more than is waited for
  const int before = stubborn_->begun();
  std::thread other([&] { ExpectWhole(0, 16); });
  ExpectWhole(128, 16);
  other.join();
  EXPECT_EQ(Lost(), 0u);
  // What was read late is not read again.
  EXPECT_LE(stubborn_->begun() - before, 8);
  EXPECT_TRUE(pager_->Recall(kOwner, Prefetch::kAll).ok());
  ExpectWhole(0, kPages);
  stubborn_->set_slow(milliseconds(0));
  AwaitPool(0);
}

TEST_P(BoundedPoolTest, LateRead_IsNotTaken_ForWhatCameToItsSlotSince) {
  StartWith(std::chrono::seconds(30), 3);
  Offload(Straight(0, 8));
  stubborn_->Close();
  std::thread toucher([&] { (void)Word(1); });
  stubborn_->AwaitOne();
  std::this_thread::sleep_for(milliseconds(50));  // until it is late
  while (!pager_->DropOwner(kOwner)) std::this_thread::yield();
  toucher.join();
  stubborn_->Open();
  AwaitPool(0);
  // Other pages at the same slots.
  Offload(Straight(16, 8), kOwner + 1);
  ExpectWhole(16, 8);
  EXPECT_TRUE(pager_->RecallAll().ok());
  ExpectWhole(16, 8);
}

TEST_P(BoundedPoolTest, WhatIsFreedLater_IsNotUsed) {
  StartWith(std::chrono::seconds(30), 3);
  Offload(Straight(128, 128), kOwner + 1);
  const uint64_t others = bounded_->used_bytes();
  Offload(Straight(0, 128));
  EXPECT_GT(bounded_->used_bytes(), others);
  stubborn_->set_slow(milliseconds(5));
  while (!pager_->DropOwner(kOwner)) std::this_thread::yield();
  do {
    ASSERT_EQ(bounded_->used_bytes(), others);
  } while (stubborn_->used_bytes() != others);
  ASSERT_EQ(bounded_->used_bytes(), others);
  ExpectWhole(128, 128);
}

// It has nobody to block in its stead.
TEST_P(BoundedPoolTest, OneThread_IsNotEnough_ToOffload) {
  StartWith(std::chrono::seconds(30), 1);
  stubborn_->Close();
  const auto offloaded = pager_->Offload(kOwner, Straight(0, kPages));
  EXPECT_EQ(offloaded.status().code(), absl::StatusCode::kUnavailable) << offloaded.status();
  EXPECT_THAT(std::string(offloaded.status().message()),
              HasSubstr("nothing is offloaded: pool file:/tmp: one thread alone serves faults, and must not wait for a write; "
                        "let a second run moult_pager_run()"));
  ExpectWhole(0, kPages);
  EXPECT_EQ(bounded_->used_bytes(), 0u);
}

TEST_P(BoundedPoolTest, LastThread_DoesNotWait_AndServesTheOthers) {
  StartWith(milliseconds(400));
  Offload(Straight(0, 64));
  Offload(Straight(64, 64), kOwner + 1);
  stubborn_->Kill();
  std::thread toucher([&] { EXPECT_TRUE(PageIsWhole(10)); });
  while (threads_->count() > 1) std::this_thread::yield();
  stubborn_->Close();
  for (uint64_t page = 128; page < 160; ++page) ExpectHolesAreFilled(page);
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(30);
  while (Lost() == 0) ASSERT_LT(std::chrono::steady_clock::now(), deadline);
  EXPECT_THAT(std::string(lost_[0].why.message()), HasSubstr("one thread alone serves faults, and must not wait for a read"));
  // Another comes.
  stubborn_->Open();
  Serve(1);
  while (threads_->count() < 2) std::this_thread::yield();
  ASSERT_TRUE(pager_->Resolve(kOwner, Resolution::kRetry).ok());
  toucher.join();
  ASSERT_TRUE(pager_->Populate(Range(0, 128)).ok());
  ExpectWhole(0, 128);
  AwaitPool(0);
}

// What it waited for is asked for again.
TEST_P(BoundedPoolTest, ThreadThatEndsAsItReads_IsNotWaitedFor) {
  StartWith(std::chrono::seconds(30), 3);
  Offload(Straight(0, kPages));
  stubborn_->Kill();
  ExpectWhole(0, kPages);
  EXPECT_EQ(threads_->count(), 2);
  EXPECT_EQ(threads_->TakeDied(), 1);
  EXPECT_EQ(Lost(), 0u);
  AwaitPool(0);
}

TEST_P(BoundedPoolTest, ThreadThatEndsAsItWrites_EndsTheOffload_AndChangesNothing) {
  StartWith(std::chrono::seconds(30), 3);
  stubborn_->Kill();
  const auto offloaded = pager_->Offload(kOwner, Straight(0, kPages));
  EXPECT_EQ(offloaded.status().code(), absl::StatusCode::kUnavailable) << offloaded.status();
  ExpectWhole(0, kPages);
  EXPECT_EQ(bounded_->used_bytes(), 0u);
  Offload(Straight(0, kPages));
  EXPECT_TRUE(pager_->Recall(kOwner, Prefetch::kAll).ok());
  ExpectWhole(0, kPages);
}

TEST_P(BoundedPoolTest, ManyThreads_AreServed_WhenEachPageTakesLong) {
  StartWith(std::chrono::seconds(30), 3);
  Offload(Scattered(0, kPages));
  stubborn_->set_slow(milliseconds(5));
  std::vector<std::thread> touchers;
  for (uint64_t i = 0; i < 4; ++i) touchers.emplace_back([&, i] { ExpectWhole(i * kPages / 4, kPages / 4); });
  for (std::thread& toucher : touchers) toucher.join();
  EXPECT_EQ(Lost(), 0u);
  stubborn_->set_slow(milliseconds(0));
  AwaitPool(0);
}

}  // namespace
}  // namespace moult::host::testing
