// SPDX-License-Identifier: Apache-2.0
//
// A thread that serves faults ends in the midst of one, without a word: who waits gets the right page from another.
#include <future>

#include "end_thread.h"
#include "pager_fixture.h"
#include "passing_pool.h"

namespace moult::host::testing {
namespace {

using ::testing::HasSubstr;

class DeadlyPool : public PassingPool {
 public:
  explicit DeadlyPool(std::shared_ptr<PagePool> pool) : PassingPool(std::move(pool)) {}
  // So many threads end that read.
  void Kill(int threads, bool unwind = false) {
    unwind_ = unwind;
    left_ = threads;
  }

  absl::Status Read(absl::Span<const PoolSlot> slots, absl::Span<std::byte> pages) override {
    if (left_ > 0 && left_-- > 0) {
      if (unwind_) pthread_exit(nullptr);
      EndThread();
    }
    return PassingPool::Read(slots, pages);
  }

 private:
  std::atomic<bool> unwind_{false};
  std::atomic<int> left_{0};
};

class PagerDeath : public PagerTest {
 protected:
  static constexpr uint64_t kPages = 256;

  std::shared_ptr<PagePool> PoolOf(std::shared_ptr<PageFile> file) override {
    return deadly_ = std::make_shared<DeadlyPool>(std::move(file));
  }
  void StartOut(int threads, std::chrono::milliseconds read_deadline = std::chrono::seconds(30)) {
    PagerConfig config;
    config.read_deadline = read_deadline;
    Start(kPages, threads, kPoolBytes, config);
    FillRam();
    Offload(Straight(0, kPages));
  }
  void AwaitThreads(int threads) const {
    while (threads_->count() != threads) std::this_thread::yield();
  }
  std::future<bool> Touch(uint64_t page) {
    return std::async(std::launch::async, [this, page] { return PageIsWhole(page); });
  }
  static void ExpectRight(std::future<bool>* touched) {
    ASSERT_EQ(touched->wait_for(std::chrono::seconds(10)), std::future_status::ready);
    EXPECT_TRUE(touched->get());
  }
  std::shared_ptr<DeadlyPool> deadly_;
};
INSTANTIATE_TEST_SUITE_P(Kinds, PagerDeath, ::testing::Values(Kind::kMemfd, Kind::kAnonymous), KindName);

TEST_P(PagerDeath, Neighbour_ServesTheFault) {
  StartOut(2);
  deadly_->Kill(1);
  auto touched = Touch(10);
  ExpectRight(&touched);
  EXPECT_EQ(threads_->count(), 1);
  ExpectWhole(0, kPages);
  EXPECT_EQ(Lost(), 0u);
  AwaitPool(0);
}

TEST_P(PagerDeath, Neighbour_ServesTheFault_OfAThreadThatWasUnwound) {
  StartOut(2);
  deadly_->Kill(1, /*unwind=*/true);
  auto touched = Touch(10);
  ExpectRight(&touched);
  EXPECT_EQ(threads_->count(), 1);
  ExpectWhole(0, kPages);
  AwaitPool(0);
}

TEST_P(PagerDeath, NextThread_ServesTheFault_OfTheLastOne) {
  StartOut(1);
  deadly_->Kill(1);
  auto touched = Touch(10);
  AwaitThreads(0);
  EXPECT_EQ(touched.wait_for(std::chrono::milliseconds(50)), std::future_status::timeout);
  Serve(1);
  ExpectRight(&touched);
  ExpectWhole(0, kPages);
  AwaitPool(0);
}

// It had read more than one fault.
TEST_P(PagerDeath, AllWhoWait_AreServed) {
  StartOut(3);
  deadly_->Kill(2);
  std::vector<std::future<bool>> touched;
  for (uint64_t page = 8; page < 8 * 17; page += 8) touched.push_back(Touch(page));
  for (auto& one : touched) ExpectRight(&one);
  EXPECT_EQ(threads_->count(), 1);
  EXPECT_EQ(Lost(), 0u);
  ExpectWhole(0, kPages);
  AwaitPool(0);
}

// It is lost as if it could not be read.
TEST_P(PagerDeath, PageThatEndsEachThread_IsLost) {
  StartOut(2, std::chrono::milliseconds(300));
  deadly_->Kill(1000);
  std::atomic<uint64_t> got{1};
  std::thread toucher([&] { got = Word(10); });
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(30);
  while (Lost() == 0) {
    ASSERT_LT(std::chrono::steady_clock::now(), deadline);
    if (threads_->count() < 2) Serve(1);
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  EXPECT_EQ(lost_[0].gpa, kGuestGpa + 10 * kPage);
  EXPECT_THAT(std::string(lost_[0].why.message()), HasSubstr("the thread that fetched it has ended by itself"));
  deadly_->Kill(0);
  ASSERT_TRUE(pager_->Resolve(kOwner, Resolution::kZero).ok());
  toucher.join();
  EXPECT_EQ(got, 0u);
  ExpectWhole(11, 64);
}

}  // namespace
}  // namespace moult::host::testing
