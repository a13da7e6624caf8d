// SPDX-License-Identifier: Apache-2.0
#include <fcntl.h>
#include <signal.h>
#include <sys/wait.h>

#include <future>

#include "end_thread.h"
#include "pool/bounded_template.h"
#include "remote_fixture.h"

namespace moult::host::testing {
namespace {

using ::testing::Each;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::UnorderedElementsAre;

TEST_F(RemoteTest, Fault_FetchesItsChunkAlone) {
  FakeVm vm;
  ASSERT_TRUE(vm.pager().Show(vm.memory(), Pages(source_)).ok());
  EXPECT_TRUE(vm.IsRight(2 * kChunk + 5 * kPage + 17));
  EXPECT_TRUE(vm.IsRight(2 * kChunk));
  EXPECT_THAT(source_->chunks(), ElementsAre(2));
  EXPECT_TRUE(vm.IsRight(kTemplateBytes - 1));
  EXPECT_THAT(source_->chunks(), ElementsAre(2, kChunks - 1));
  const RemoteStats stats = vm.pager().stats();
  EXPECT_EQ(stats.fetched_bytes, kChunk + 3 * kPage);
  EXPECT_EQ(vm.pager().bytes(vm.memory()).pool, kChunk + 3 * kPage);
}

TEST_F(RemoteTest, Write_IsOfOneVmAlone) {
  FakeVm vm, other;
  const auto pages = Pages(source_);
  ASSERT_TRUE(vm.pager().Show(vm.memory(), pages).ok());
  ASSERT_TRUE(other.pager().Show(other.memory(), Pages(source_)).ok());
  for (const uint64_t at : {uint64_t{100}, kChunk, kChunk + 1}) vm.memory()[at] ^= std::byte{0xff};
  EXPECT_FALSE(vm.IsRight(100));
  EXPECT_TRUE(vm.IsRight(101));
  EXPECT_TRUE(other.IsAllRight());
  EXPECT_EQ(CheckFile(pages->fd()), kTemplateBytes / kPage);
}

TEST_F(RemoteTest, SecondVm_ReadsNothingFromThePool) {
  {
    FakeVm vm;
    ASSERT_TRUE(vm.pager().Show(vm.memory(), Pages(source_)).ok());
    EXPECT_TRUE(vm.IsAllRight());
    EXPECT_EQ(source_->reads(), static_cast<int>(kChunks));
  }
  FakeVm second;
  ASSERT_TRUE(second.pager().Show(second.memory(), Pages(source_)).ok());
  EXPECT_TRUE(second.IsAllRight());
  EXPECT_EQ(source_->reads(), static_cast<int>(kChunks));
  const RemoteStats stats = second.pager().stats();
  EXPECT_EQ(stats.hits, stats.faults);
  EXPECT_EQ(stats.fetched_bytes, 0u);
  EXPECT_EQ(second.pager().bytes(second.memory()).cache, kTemplateBytes);
}

TEST_F(RemoteTest, FlippedBit_IsReadAgain) {
  source_->SetScript([](int nth, uint64_t) { return nth < 2 ? absl::DataLossError("") : absl::OkStatus(); });
  FakeVm vm;
  const auto pages = Pages(source_);
  ASSERT_TRUE(vm.pager().Show(vm.memory(), pages).ok());
  EXPECT_TRUE(vm.IsRight(7));
  EXPECT_EQ(source_->reads(), 3);
  EXPECT_EQ(pages->retries(), 2u);
  EXPECT_EQ(CheckFile(pages->fd()), kChunk / kPage);
}

TEST_F(RemoteTest, Pool_IsWaitedForWhileItFails) {
  source_->SetScript([](int nth, uint64_t) {
    return nth < 3 ? absl::UnavailableError("the link is down") : absl::OkStatus();
  });
  FakeVm vm;
  ASSERT_TRUE(vm.pager().Show(vm.memory(), Pages(source_)).ok());
  EXPECT_TRUE(vm.IsRight(0));
  EXPECT_EQ(source_->reads(), 4);
}

TEST_F(RemoteTest, DamagedChunk_IsLostToAllWhoUseIt) {
  source_->SetScript(
      [](int, uint64_t chunk) { return chunk == 1 ? absl::DataLossError("") : absl::OkStatus(); });
  FakeVm vm(Quick(std::chrono::seconds(2)));
  const auto pages = Pages(source_);
  ASSERT_TRUE(vm.pager().Show(vm.memory(), pages).ok());
  vm.pager().SetUsers(vm.memory(), {7, 8});
  EXPECT_TRUE(vm.IsRight(0));
  auto touched = std::async(std::launch::async, [&] { return vm.Byte(kChunk + 3); });
  const auto lost = vm.AwaitLost(3);
  std::vector<uint64_t> functions;
  for (const auto& one : lost) {
    functions.push_back(one.function);
    EXPECT_EQ(one.page, vm.memory() + kChunk);
    EXPECT_TRUE(absl::IsDataLoss(one.why)) << one.why;
    EXPECT_THAT(one.why.message(), HasSubstr("chunk 1 (offset 262144, 262144 bytes)"));
  }
  EXPECT_THAT(functions, UnorderedElementsAre(0, 7, 8));
  EXPECT_TRUE(vm.pager().spoiled(vm.memory()));
  EXPECT_GT(source_->reads(), 2);
  // What is there is as good as ever, and nothing of the other is.
  EXPECT_TRUE(vm.IsRight(kChunk - 1));
  EXPECT_EQ(CheckFile(pages->fd()), kChunk / kPage);
  EXPECT_TRUE(vm.pager().Resolve(7, Resolution::kZero).ok());
  EXPECT_TRUE(absl::IsNotFound(vm.pager().Resolve(7, Resolution::kZero)));
  EXPECT_TRUE(vm.pager().Resolve(0, Resolution::kZero).ok());
  EXPECT_EQ(touched.wait_for(std::chrono::seconds(0)), std::future_status::timeout);
  EXPECT_TRUE(vm.pager().Resolve(8, Resolution::kZero).ok());
  EXPECT_EQ(touched.get(), 0);
  EXPECT_EQ(CheckFile(pages->fd()), kChunk / kPage);
}

TEST_F(RemoteTest, RemovedTemplate_IsLostAtOnce) {
  source_->SetScript([](int, uint64_t) { return absl::NotFoundError("it was removed"); });
  FakeVm vm;
  ASSERT_TRUE(vm.pager().Show(vm.memory(), Pages(source_)).ok());
  auto touched = std::async(std::launch::async, [&] { return vm.Byte(0); });
  EXPECT_THAT(vm.AwaitLost(1)[0].why.message(), HasSubstr("it was removed"));
  EXPECT_EQ(source_->reads(), 1);
  EXPECT_TRUE(vm.pager().Resolve(0, Resolution::kZero).ok());
  EXPECT_EQ(touched.get(), 0);
}

TEST_F(RemoteTest, LostPage_ComesWhenThePoolIsWellAgain) {
  std::atomic<bool> down = true;
  source_->SetScript(
      [&](int, uint64_t) { return down ? absl::UnavailableError("no answer") : absl::OkStatus(); });
  FakeVm vm(Quick());
  ASSERT_TRUE(vm.pager().Show(vm.memory(), Pages(source_)).ok());
  auto touched = std::async(std::launch::async, [&] { return vm.IsRight(5); });
  vm.AwaitLost(1);
  down = false;
  EXPECT_TRUE(vm.pager().Resolve(0, Resolution::kRetry).ok());
  EXPECT_TRUE(touched.get());
  EXPECT_FALSE(vm.pager().spoiled(vm.memory()));
}

// 8 lives on, so it must not see zeros, whoever speaks after it.
TEST_F(RemoteTest, LostPage_IsTriedAgain_WhenOneUserWantsIt) {
  std::atomic<bool> down = true;
  source_->SetScript(
      [&](int, uint64_t) { return down ? absl::UnavailableError("no answer") : absl::OkStatus(); });
  FakeVm vm(Quick());
  ASSERT_TRUE(vm.pager().Show(vm.memory(), Pages(source_)).ok());
  vm.pager().SetUsers(vm.memory(), {7, 8});
  auto touched = std::async(std::launch::async, [&] { return vm.IsRight(5); });
  vm.AwaitLost(3);
  down = false;
  EXPECT_TRUE(vm.pager().Resolve(8, Resolution::kRetry).ok());
  EXPECT_TRUE(vm.pager().Resolve(0, Resolution::kZero).ok());
  vm.pager().SetUsers(vm.memory(), {8});
  EXPECT_TRUE(touched.get());
}

TEST_F(RemoteTest, UserThatComesToALostSlot_IsToldOf) {
  source_->SetScript([](int, uint64_t) { return absl::NotFoundError("gone"); });
  FakeVm vm;
  ASSERT_TRUE(vm.pager().Show(vm.memory(), Pages(source_)).ok());
  vm.pager().SetUsers(vm.memory(), {7});
  auto touched = std::async(std::launch::async, [&] { return vm.Byte(0); });
  vm.AwaitLost(2);
  vm.pager().SetUsers(vm.memory(), {7, 9});
  EXPECT_EQ(vm.AwaitLost(3)[2].function, 9u);
  for (const uint64_t function : {0u, 7u, 9u}) EXPECT_TRUE(vm.pager().Resolve(function, Resolution::kZero).ok());
  EXPECT_EQ(touched.get(), 0);
}

TEST_F(RemoteTest, EndOfAUser_ResolvesWhatItLost) {
  source_->SetScript([](int, uint64_t) { return absl::NotFoundError("gone"); });
  FakeVm vm;
  ASSERT_TRUE(vm.pager().Show(vm.memory(), Pages(source_)).ok());
  vm.pager().SetUsers(vm.memory(), {7});
  auto touched = std::async(std::launch::async, [&] { return vm.Byte(0); });
  vm.AwaitLost(2);
  EXPECT_TRUE(vm.pager().Resolve(0, Resolution::kZero).ok());
  vm.pager().SetUsers(vm.memory(), {});
  EXPECT_EQ(touched.get(), 0);
}

TEST_F(RemoteTest, StalledRead_KeepsNobodyElseWaiting) {
  std::promise<void> go;
  const std::shared_future<void> gone = go.get_future().share();
  source_->SetScript([gone](int, uint64_t chunk) {
    if (chunk == 0) gone.wait();
    return absl::OkStatus();
  });
  FakeVm vm;
  ASSERT_TRUE(vm.pager().Show(vm.memory(), Pages(source_)).ok());
  auto waits = std::async(std::launch::async, [&] { return vm.IsRight(0) && vm.IsRight(kPage); });
  EXPECT_TRUE(vm.IsRight(3 * kChunk));
  go.set_value();
  EXPECT_TRUE(waits.get());
}

TEST_F(RemoteTest, ManyThreads_ReadTheSame) {
  FakeVm vm, other;
  ASSERT_TRUE(vm.pager().Show(vm.memory(), Pages(source_)).ok());
  ASSERT_TRUE(other.pager().Show(other.memory(), Pages(source_)).ok());
  std::vector<std::future<bool>> readers;
  for (int i = 0; i < 4; ++i) {
    readers.push_back(
        std::async(std::launch::async, [&, i] { return i % 2 == 0 ? vm.IsAllRight() : other.IsAllRight(); }));
  }
  for (auto& reader : readers) EXPECT_TRUE(reader.get());
}

TEST_F(RemoteTest, Replaced_SlotIsServedNoMore) {
  FakeVm vm;
  const auto pages = Pages(source_);
  ASSERT_TRUE(vm.pager().Show(vm.memory(), pages).ok());
  EXPECT_TRUE(vm.IsRight(0));
  vm.pager().Forget(vm.memory());
  ASSERT_NE(mmap(vm.memory(), kTemplateBytes, PROT_READ | PROT_WRITE, MAP_FIXED | MAP_PRIVATE | MAP_ANONYMOUS,
                 -1, 0),
            MAP_FAILED);
  EXPECT_EQ(vm.Byte(0), 0);
  EXPECT_EQ(vm.Byte(kChunk), 0);
  EXPECT_EQ(source_->reads(), 1);
  ASSERT_TRUE(vm.pager().Show(vm.memory(), pages).ok());
  EXPECT_TRUE(vm.IsAllRight());
}

TEST_F(RemoteTest, Populate_LeavesNoFault) {
  FakeVm vm({}, /*threads=*/0);  // Nobody would serve one.
  ASSERT_TRUE(vm.pager().Show(vm.memory(), Pages(source_)).ok());
  ASSERT_TRUE(vm.pager().Populate({vm.memory() + kChunk - kPage, 2 * kPage}).ok());
  EXPECT_TRUE(vm.IsRight(kChunk - kPage));
  EXPECT_TRUE(vm.IsRight(kChunk));
  EXPECT_THAT(source_->chunks(), ElementsAre(0, 1));
  ASSERT_TRUE(vm.pager().Populate({vm.memory(), kTemplateBytes}).ok());
  EXPECT_TRUE(vm.IsAllRight());
}

TEST_F(RemoteTest, ClosedVm_PutsNoZerosIntoTheCache) {
  FakeVm vm;
  const auto pages = Pages(source_);
  ASSERT_TRUE(vm.pager().Show(vm.memory(), pages).ok());
  EXPECT_TRUE(vm.IsRight(0));
  vm.Stop();
  EXPECT_TRUE(vm.IsRight(kPage));
  EXPECT_EQ(vm.Byte(3 * kChunk), 0);
  vm.memory()[4 * kChunk] = std::byte{1};
  EXPECT_EQ(CheckFile(pages->fd()), kChunk / kPage);
}

TEST_F(RemoteTest, WorkingSet_IsFetchedFirstTheNextTime) {
  RemoteConfig config;
  config.working_set_window = std::chrono::milliseconds(0);
  {
    FakeVm vm(config);
    ASSERT_TRUE(vm.pager().Show(vm.memory(), Pages(source_)).ok());
    EXPECT_TRUE(vm.IsRight(4 * kChunk));
    EXPECT_TRUE(vm.IsRight(kChunk));
    vm.pager().SetUsers(vm.memory(), {7});
    while (cache_->WorkingSet(kDigest, kChunks).empty()) usleep(1000);
  }
  EXPECT_THAT(cache_->WorkingSet(kDigest, kChunks), ElementsAre(4, 1));
  // The pages are gone, the set stays.
  ASSERT_EQ(unlink((cache_->folder() + "/" + kDigest + ".pages").c_str()), 0);
  const auto again = std::make_shared<FakeRemote>();
  config.prefetch_bytes_per_s = 64 << 20;
  FakeVm vm(config);
  const auto pages = Pages(again);
  ASSERT_TRUE(vm.pager().Show(vm.memory(), pages).ok());
  AwaitAll(*pages);
  EXPECT_THAT(again->chunks(), ElementsAre(4, 1, 0, 2, 3, 5));
}

TEST_F(RemoteTest, WorkingSet_ThatIsNotFetchedAtOnce_StillComesBeforeTheRest) {
  cache_->SetWorkingSet(kDigest, {5, 3, 4, 1, 2});
  RemoteConfig config;
  config.prefetch_bytes_per_s = 64 << 20;
  FakeVm vm(config);
  const auto pages = Pages(source_);
  ASSERT_TRUE(vm.pager().Show(vm.memory(), pages).ok());
  AwaitAll(*pages);
  EXPECT_THAT(source_->chunks(), ElementsAre(5, 3, 4, 1, 2, 0));
}

TEST_F(RemoteTest, Rest_ComesBehindAtARate) {
  // As much as a thread has room for comes at once, and what follows when that is paid for.
  constexpr uint64_t kRate = 2 << 20, kAtOnce = RemotePager::kBufferPages * kPage;
  static_assert(kAtOnce < (kChunks - 1) * kChunk, "some of it must wait");
  std::mutex mutex;
  std::vector<RemotePages::Clock::time_point> asked;
  source_->SetScript([&](int, uint64_t) {
    const std::lock_guard<std::mutex> lock(mutex);
    asked.push_back(RemotePages::Clock::now());
    return absl::OkStatus();
  });
  RemoteConfig config;
  config.prefetch_bytes_per_s = kRate;
  FakeVm vm(config);
  const auto pages = Pages(source_);
  ASSERT_TRUE(vm.pager().Show(vm.memory(), pages).ok());
  AwaitAll(*pages);
  EXPECT_THAT(source_->chunks(), ElementsAre(0, 1, 2, 3, 4, 5));
  EXPECT_TRUE(vm.IsAllRight());
  EXPECT_EQ(vm.pager().stats().fetched_bytes, 0u);
  const std::lock_guard<std::mutex> lock(mutex);
  ASSERT_EQ(asked.size(), kChunks);
  for (uint64_t nth = 0; nth < kChunks; ++nth) {
    const uint64_t paid = nth * kChunk / kAtOnce * kAtOnce;
    EXPECT_GE(asked[nth] - asked[0], std::chrono::milliseconds(paid * 1000 / kRate)) << "chunk " << nth;
  }
}

TEST_F(RemoteTest, PrefetchThatFails_LosesNothing) {
  source_->SetScript(
      [](int nth, uint64_t) { return nth == 0 ? absl::NotFoundError("not now") : absl::OkStatus(); });
  cache_->SetWorkingSet(kDigest, {3});
  FakeVm vm;
  ASSERT_TRUE(vm.pager().Show(vm.memory(), Pages(source_)).ok());
  while (vm.pager().stats().prefetch_failures == 0) usleep(1000);
  EXPECT_TRUE(vm.IsRight(3 * kChunk));
  EXPECT_EQ(vm.pager().stats().lost_slots, 0u);
}

TEST_F(RemoteTest, PrivateEntry_IsOfThisVmAlone) {
  FakeVm vm;
  ASSERT_TRUE(vm.pager().Show(vm.memory(), Pages(source_, *CacheEntry::Private(kTemplateBytes))).ok());
  EXPECT_TRUE(vm.IsAllRight());
  EXPECT_EQ(cache_->Use().templates, 0u);
}

TEST_F(RemoteTest, KilledFiller_LeavesWholePagesOnly) {
  const auto content = Content();
  KillAsItFills([&](const auto& tell) {
    const auto pages = Pages(source_);
    // Round after round, each from a file without pages: there is always one half done.
    for (;;) {
      for (uint64_t chunk = 0; chunk < kChunks; ++chunk) {
        (void)pages->Keep(chunk, content.data() + chunk * kChunk);
        if (chunk == 1) tell();
      }
      if (fallocate(pages->fd(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, kTemplateBytes) != 0)
        _exit(1);
    }
  });
  const auto pages = Pages(source_);
  CheckFile(pages->fd());
  FakeVm vm;
  ASSERT_TRUE(vm.pager().Show(vm.memory(), pages).ok());
  EXPECT_TRUE(vm.IsAllRight());
}

TEST_F(RemoteTest, TwoFillers_MakeOneFile) {
  const auto ours = Pages(source_), theirs = Pages(source_);
  std::thread other(
      [&] { EXPECT_TRUE(theirs->FetchAll(RemotePages::Clock::now() + std::chrono::seconds(60)).ok()); });
  EXPECT_TRUE(ours->FetchAll(RemotePages::Clock::now() + std::chrono::seconds(60)).ok());
  other.join();
  EXPECT_EQ(CheckFile(ours->fd()), kTemplateBytes / kPage);
}

// A file system that hangs, with a template in it.
class HungTemplate : public RemoteTest {
 protected:
  HungTemplate() {
    source_->SetScript([this](int, uint64_t chunk) {
      while (hung_ && chunk == 1) std::this_thread::sleep_for(std::chrono::milliseconds(1));
      return absl::OkStatus();
    });
  }
  ~HungTemplate() override { hung_ = false; }
  RemoteConfig Config() const {
    RemoteConfig config = Quick(std::chrono::seconds(3));  // Time for another thread to take up what is to come.
    config.threads = threads_;
    return config;
  }
  std::shared_ptr<RemotePages> BoundedPages() {
    auto entry = cache_->Take(kDigest, kTemplateBytes);
    EXPECT_TRUE(entry.ok()) << entry.status();
    const std::vector<uint8_t> leaves = LeavesOf(Content());
    auto pages = RemotePages::Create(kDigest, kDigest, {.digests = leaves},
                                     std::make_shared<BoundedTemplate>("file:/p/t", source_, threads_), *std::move(entry), cache_);
    EXPECT_TRUE(pages.ok()) << pages.status();
    return *std::move(pages);
  }
  const std::shared_ptr<ServingThreads> threads_ = *ServingThreads::Create();
  std::atomic<bool> hung_ = true;
};

TEST_F(HungTemplate, PageThatIsWaitedFor_IsLost_AndOthersAreServed) {
  FakeVm vm(Config());
  while (threads_->count() < 2) std::this_thread::yield();
  ASSERT_TRUE(vm.pager().Show(vm.memory(), BoundedPages()).ok());
  EXPECT_TRUE(vm.IsRight(0));
  auto touched = std::async(std::launch::async, [&] { return vm.IsRight(kChunk + 5); });
  const auto lost = vm.AwaitLost(1);
  EXPECT_TRUE(absl::IsUnavailable(lost[0].why)) << lost[0].why;
  EXPECT_THAT(lost[0].why.message(), HasSubstr("template file:/p/t does not answer: a read "));
  // What is here is served by the thread that does not hang.
  EXPECT_TRUE(vm.IsRight(kChunk - 1));
  hung_ = false;
  EXPECT_TRUE(vm.pager().Resolve(0, Resolution::kRetry).ok());
  EXPECT_TRUE(touched.get());
  EXPECT_TRUE(vm.IsAllRight());
}

TEST_F(HungTemplate, OneThread_DoesNotWait) {
  FakeVm vm(Config(), 1);
  while (threads_->count() < 1) std::this_thread::yield();
  ASSERT_TRUE(vm.pager().Show(vm.memory(), BoundedPages()).ok());
  auto touched = std::async(std::launch::async, [&] { return vm.Byte(kChunk); });
  EXPECT_THAT(vm.AwaitLost(1)[0].why.message(),
              HasSubstr("template file:/p/t: one thread alone serves faults, and must not wait for a read"));
  EXPECT_TRUE(vm.pager().Resolve(0, Resolution::kZero).ok());
  EXPECT_EQ(touched.get(), 0);
}

TEST_F(RemoteTest, ThreadThatEndsAsItFetches_IsReplacedByItsNeighbour) {
  source_->SetScript([](int nth, uint64_t) {
    if (nth == 0) EndThread();
    return absl::OkStatus();
  });
  RemoteConfig config;
  const auto threads = config.threads = *ServingThreads::Create();
  FakeVm vm(config);
  while (threads->count() < 2) std::this_thread::yield();
  ASSERT_TRUE(vm.pager().Show(vm.memory(), Pages(source_)).ok());
  EXPECT_TRUE(vm.IsRight(5));
  EXPECT_EQ(threads->count(), 1);
  EXPECT_TRUE(vm.IsAllRight());
}

TEST_F(RemoteTest, PageThatEndsEachThread_IsLost) {
  source_->SetScript([](int, uint64_t) {
    EndThread();
    return absl::OkStatus();
  });
  FakeVm vm({}, 4);
  ASSERT_TRUE(vm.pager().Show(vm.memory(), Pages(source_)).ok());
  auto touched = std::async(std::launch::async, [&] { return vm.Byte(0); });
  EXPECT_THAT(vm.AwaitLost(1)[0].why.message(), HasSubstr("threads that fetched it have ended by themselves"));
  EXPECT_TRUE(vm.pager().Resolve(0, Resolution::kZero).ok());
  EXPECT_EQ(touched.get(), 0);
}

}  // namespace
}  // namespace moult::host::testing
