// SPDX-License-Identifier: Apache-2.0
//
// A pool of templates whose medium stops to answer: each call ends, and nothing is half made, or made later.
#include "pool/bounded_templates.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <set>
#include <thread>

#include "absl/strings/match.h"
#include "pool/file/file_system.h"
#include "serving_loop.h"

namespace moult::host::testing {
namespace {

using std::chrono::milliseconds;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

// Calls begin, and end when they are let.
class StubbornTemplates final : public TemplatePool {
 public:
  void Close() { closed_ = true; }
  void Open() { closed_ = false; }
  void Wait() const {
    ++inside_;
    while (closed_) std::this_thread::sleep_for(milliseconds(1));
    --inside_;
  }
  void AwaitNobody() const {
    while (inside_ > 0) std::this_thread::yield();
  }
  std::set<std::string> names() const {
    const std::lock_guard<std::mutex> lock(mutex_);
    return names_;
  }

  const std::string& uri() const override { return uri_; }
  absl::StatusOr<std::vector<PoolEntry>> List(Clock::time_point) override {
    Wait();
    std::vector<PoolEntry> entries;
    for (const std::string& name : names()) entries.push_back({name, "", "", 1});
    return entries;
  }
  absl::StatusOr<std::shared_ptr<RemoteTemplate>> Open(const std::string& name, Clock::time_point) override {
    Wait();
    return absl::NotFoundError("no " + name);
  }
  absl::Status Push(const Template& content, Clock::time_point, const TransferProgress&) override {
    Wait();
    const std::lock_guard<std::mutex> lock(mutex_);
    return names_.insert(content.name).second ? absl::OkStatus() : absl::AlreadyExistsError("is there");
  }
  absl::Status Remove(const std::string& name, Clock::time_point) override {
    Wait();
    const std::lock_guard<std::mutex> lock(mutex_);
    return names_.erase(name) != 0 ? absl::OkStatus() : absl::NotFoundError("no " + name);
  }
  absl::StatusOr<PoolUse> Use(Clock::time_point) override {
    Wait();
    return PoolUse{.templates = names().size()};
  }

 private:
  const std::string uri_ = "file:/p";
  std::atomic<bool> closed_{false};
  mutable std::atomic<int> inside_{0};
  mutable std::mutex mutex_;
  std::set<std::string> names_;
};

class BoundedTemplatesTest : public ::testing::Test {
 protected:
  void Start(int threads) {
    serving_.Start(threads);
    auto pool = OpenPool(std::chrono::hours(1));
    ASSERT_TRUE(pool.ok()) << pool.status();
    pool_ = *std::move(pool);
  }
  absl::StatusOr<std::shared_ptr<TemplatePool>> OpenPool(milliseconds within) {
    return BoundedTemplates::Open(
        "file:/p",
        [stubborn = stubborn_]() -> absl::StatusOr<std::shared_ptr<TemplatePool>> {
          stubborn->Wait();
          return stubborn;
        },
        threads_, within);
  }
  void TearDown() override {
    stubborn_->Open();
    serving_.Stop();
  }
  // What `call` says that is given 50 ms, and begun within these: on a busy machine no thread may take it up in time.
  template <typename Call>
  static absl::Status InTime(Call call) {
    absl::Status status;
    for (int tries = 0; tries < 600; ++tries) {
      status = call(Clock::now() + milliseconds(50));
      if (!absl::StrContains(status.message(), "has not begun within")) break;
    }
    return status;
  }
  static Clock::time_point Later() { return Clock::now() + std::chrono::hours(1); }
  static void ExpectSilent(const absl::Status& status, const std::string& text) {
    EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr(text));
    EXPECT_THAT(std::string(status.message()), HasSubstr("pool file:/p does not answer"));
    EXPECT_THAT(std::string(status.message()), HasSubstr("look at its file system"));
  }

  const std::shared_ptr<StubbornTemplates> stubborn_ = std::make_shared<StubbornTemplates>();
  const std::shared_ptr<ServingThreads> threads_ = *ServingThreads::Create();
  ServingLoop serving_{threads_};
  std::shared_ptr<TemplatePool> pool_;
};

TEST_F(BoundedTemplatesTest, CallsHaveTheirAnswers) {
  Start(3);
  Template content;
  content.name = "t";
  EXPECT_TRUE(pool_->Push(content, Later(), nullptr).ok());
  EXPECT_EQ(pool_->Push(content, Later(), nullptr).code(), absl::StatusCode::kAlreadyExists);
  EXPECT_EQ((*pool_->List(Later()))[0].name, "t");
  EXPECT_EQ(pool_->Use(Later())->templates, 1u);
  EXPECT_EQ(pool_->Open("u", Later()).status().code(), absl::StatusCode::kNotFound);
  EXPECT_TRUE(pool_->Remove("t", Later()).ok());
  EXPECT_EQ(pool_->uri(), "file:/p");
}

TEST_F(BoundedTemplatesTest, CallsEnd_WhenItDoesNotAnswer) {
  Start(8);
  stubborn_->Close();
  Template content;
  content.name = "t";
  ExpectSilent(InTime([&](auto end) { return pool_->Open("t", end).status(); }), "open template t: pool file:/p does not answer: a look at a template has not ended within");
  ExpectSilent(InTime([&](auto end) { return pool_->Push(content, end, nullptr); }), "push t to file:/p: nothing of it stays there once it answers: ");
  ExpectSilent(InTime([&](auto end) { return pool_->Remove("t", end); }), "remove template t");
  ExpectSilent(InTime([&](auto end) { return pool_->List(end).status(); }), "a list has not ended within");
  ExpectSilent(InTime([&](auto end) { return pool_->Use(end).status(); }), "a look at its room has not ended within");
  ExpectSilent(InTime([&](auto) { return OpenPool(milliseconds(50)).status(); }), "a first look has not ended within 50 ms");
}

TEST_F(BoundedTemplatesTest, LateOrNotBegun_APushLeavesNothing) {
  Start(3);
  stubborn_->Close();
  Template content;
  content.name = "t";
  ExpectSilent(InTime([&](auto end) { return pool_->Push(content, end, nullptr); }), "a push has not ended within");
  // One of three waits, and the other two are for pages.
  ExpectSilent(pool_->Push(content, Later(), nullptr), "a push is not begun while 1 earlier that took too long goes on");
  stubborn_->Open();
  for (absl::Status again = absl::UnavailableError("not tried"); absl::IsUnavailable(again) || absl::IsAlreadyExists(again);) {
    content.name = "u";
    again = pool_->Push(content, Later(), nullptr);
    ASSERT_FALSE(absl::IsAlreadyExists(again));
  }
  stubborn_->AwaitNobody();
  EXPECT_THAT(stubborn_->names(), ElementsAre("u"));
}

// As without such threads.
TEST_F(BoundedTemplatesTest, CallerWaitsHimself_WithTwoThreads) {
  Start(2);
  Template content;
  content.name = "t";
  EXPECT_TRUE(pool_->Push(content, Clock::time_point::min(), nullptr).ok());
  EXPECT_THAT(stubborn_->names(), ElementsAre("t"));
}

TEST(FileSystem, WhatIsMemory_IsKnownWithoutAQuestion) {
  EXPECT_TRUE(IsMountedInMemory("/dev/shm"));
  EXPECT_TRUE(IsMountedInMemory("/dev/shm/pool/./x"));
  EXPECT_FALSE(IsMountedInMemory("/proc/self"));
  EXPECT_FALSE(IsMountedInMemory("/dev/shm/../../proc"));
  EXPECT_EQ(IsMountedInMemory("/"), IsInMemory("/"));
}

}  // namespace
}  // namespace moult::host::testing
