// SPDX-License-Identifier: Apache-2.0
#include "serving/serving_threads.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <thread>

#include "end_thread.h"
#include "serving_loop.h"

namespace moult::host::testing {
namespace {

using std::chrono::milliseconds;
using ::testing::HasSubstr;

class Task final : public ServingThreads::Job {
 public:
  explicit Task(std::function<void()> run, std::function<void()> unwanted = [] {})
      : run_(std::move(run)), unwanted_(std::move(unwanted)) {}

 private:
  absl::Status Run() override {
    run_();
    return absl::OkStatus();
  }
  void Unwanted() override { unwanted_(); }

  const std::function<void()> run_, unwanted_;
};

class ServingThreadsTest : public ::testing::Test {
 protected:
  void Start(int threads) { serving_.Start(threads); }
  void TearDown() override {
    push_goes_on_ = false;
    serving_.Stop();
  }
  absl::Status Do(std::function<void()> run, std::function<void()> unwanted = [] {}, milliseconds most = milliseconds(30)) {
    return threads_->Do(std::make_shared<Task>(std::move(run), std::move(unwanted)), {"pool x", "read", most});
  }
  static void Await(const std::atomic<bool>& flag) {
    while (!flag) std::this_thread::yield();
  }

  const std::shared_ptr<ServingThreads> threads_ = *ServingThreads::Create();
  ServingLoop serving_{threads_};

  // One of them is at something that takes long, until `push_goes_on_` is false.
  void BeginPush() {
    ASSERT_TRUE(threads_->Begin(push_, kPush).ok());
    Await(push_begun_);
  }
  const ServingThreads::Call kPush{"pool x", "push", std::chrono::minutes(5), /*slow=*/true};
  std::atomic<bool> push_begun_{false}, push_goes_on_{true};
  const std::shared_ptr<Task> push_ = std::make_shared<Task>([this] {
    push_begun_ = true;
    while (push_goes_on_) std::this_thread::yield();
  });
};

TEST_F(ServingThreadsTest, Job_IsDoneByOneOfThem_OrByWhoWantsIt_WhereThereIsNone) {
  std::thread::id by;
  EXPECT_TRUE(Do([&] { by = std::this_thread::get_id(); }).ok());
  EXPECT_EQ(by, std::this_thread::get_id());
  Start(2);
  EXPECT_TRUE(Do([&] { by = std::this_thread::get_id(); }, [] {}, std::chrono::seconds(30)).ok());
  EXPECT_TRUE(by == serving_.each()[0].get_id() || by == serving_.each()[1].get_id());
}

// What becomes of what nobody wants any more may block as well: then that is no thread to spare either.
TEST_F(ServingThreadsTest, LastThread_IsNotLent_WhileAnotherDealsWithWhatNobodyWants) {
  Start(2);
  std::atomic<bool> begun = false, open = false, unwanted = false, end = false, run = false;
  const auto first = std::make_shared<Task>([&] { begun = true; Await(open); }, [&] { unwanted = true; Await(end); });
  const ServingThreads::Call call{"pool x", "read", milliseconds(30)};
  ASSERT_TRUE(threads_->Begin(first, call).ok());
  Await(begun);
  EXPECT_THAT(std::string(threads_->Await(first, call).message()), HasSubstr("pool x does not answer: a read has not ended within 30 ms"));
  open = true;
  Await(unwanted);
  // At once, which it says.
  EXPECT_THAT(std::string(Do([&] { run = true; }, [] {}, std::chrono::hours(1)).message()),
              HasSubstr("pool x does not answer: a read is not begun while 1 earlier that took too long goes on"));
  std::this_thread::sleep_for(milliseconds(20));
  EXPECT_FALSE(run);
  end = true;
  while (!Do([&] { run = true; }, [] {}, std::chrono::seconds(30)).ok()) std::this_thread::yield();
  EXPECT_TRUE(run);
}

// One wakes the next: all that were posted together may have woken one.
TEST_F(ServingThreadsTest, Jobs_PostedTogether_AreDoneSideBySide) {
  Start(4);
  for (int round = 0; round < 200; ++round) {
    std::atomic<int> begun = 0;
    std::atomic<bool> open = false;
    std::vector<std::shared_ptr<Task>> jobs;
    for (int i = 0; i < 3; ++i) {
      jobs.push_back(std::make_shared<Task>([&] { ++begun; Await(open); }));
      threads_->Post(jobs.back());
    }
    while (begun < 3) std::this_thread::yield();
    open = true;
    for (const auto& job : jobs) {
      while (!threads_->Result(*job).has_value()) std::this_thread::yield();
    }
  }
}

TEST_F(ServingThreadsTest, OneAlone_DoesNothingForOthers) {
  Start(1);
  bool run = false;
  const absl::Status status = Do([&] { run = true; }, [] {}, std::chrono::hours(1));
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(status.message()), HasSubstr("one thread alone serves faults, and must not wait for a read"));
  EXPECT_FALSE(run);
}

TEST_F(ServingThreadsTest, ThreadThatDies_IsNoticed_AndItsJobEnds) {
  Start(3);
  const absl::Status status = Do([] { EndThread(); }, [] {}, std::chrono::hours(1));
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(status.message()), HasSubstr("the thread that did it has ended by itself"));
  EXPECT_EQ(threads_->count(), 2);
}

// A page is not to wait for what takes long anyway.
TEST_F(ServingThreadsTest, SlowJob_LeavesAThreadForOthers) {
  Start(3);
  BeginPush();
  // The next one of its kind waits for it; what is not slow has its turn before that.
  std::atomic<bool> second_begun{false};
  const auto second = std::make_shared<Task>([&] { second_begun = true; });
  ASSERT_TRUE(threads_->Begin(second, kPush).ok());
  for (int i = 0; i < 32; ++i) EXPECT_TRUE(Do([] {}, [] {}, std::chrono::minutes(5)).ok());
  EXPECT_FALSE(second_begun);
  push_goes_on_ = false;
  EXPECT_TRUE(threads_->Await(push_, kPush).ok());
  EXPECT_TRUE(threads_->Await(second, kPush).ok());
  EXPECT_TRUE(second_begun);
}

// Two that serve faults would wait for each other's reads, with the third at what takes long.
TEST_F(ServingThreadsTest, SlowJob_LeavesOneThatDoesWhatTheOtherWaitsFor) {
  Start(1);
  std::atomic<int> there{0}, ended{0};
  std::atomic<bool> go{false};
  std::vector<std::thread> faulting;
  for (int i = 0; i < 2; ++i) {
    faulting.emplace_back([&] {
      const ServingThreads::Serving serving(threads_.get());
      ++there;
      Await(go);
      for (int fault = 0; fault < 200; ++fault) {
        while (!Do([] {}, [] {}, std::chrono::minutes(5)).ok()) threads_->RunJobs();
      }
      ++ended;
      while (ended < 2) threads_->RunJobs();
    });
  }
  while (there < 2) std::this_thread::yield();
  BeginPush();
  EXPECT_EQ(threads_->Ready(), 2);
  go = true;
  for (std::thread& thread : faulting) thread.join();
  push_goes_on_ = false;
  EXPECT_TRUE(threads_->Await(push_, kPush).ok());
}

TEST_F(ServingThreadsTest, SlowJob_IsNotBegun_WhileOneThatTookTooLongGoesOn) {
  Start(3);
  std::atomic<bool> goes_on{true};
  const ServingThreads::Call call{"pool x", "push", milliseconds(50), /*slow=*/true};
  std::atomic<bool> begun{false};
  const auto first = std::make_shared<Task>([&] {
    begun = true;
    while (goes_on) std::this_thread::yield();
  });
  ASSERT_TRUE(threads_->Begin(first, call).ok());
  Await(begun);
  const absl::Status late = threads_->Await(first, call);
  EXPECT_THAT(std::string(late.message()), HasSubstr("a push has not ended within 50 ms"));
  const absl::Status next = threads_->Do(std::make_shared<Task>([] {}), call);
  EXPECT_THAT(std::string(next.message()), HasSubstr("pool x does not answer: a push is not begun while 1 earlier that took too long goes on"));
  EXPECT_TRUE(Do([] {}, [] {}, std::chrono::minutes(5)).ok());
  goes_on = false;
  while (threads_->Ready() < 3) std::this_thread::yield();  // Until then it looks at what is here.
}

}  // namespace
}  // namespace moult::host::testing
