// SPDX-License-Identifier: Apache-2.0
//
// A template in a pool that has the digests of its pages: a fault fetches its page alone, and the rest of the chunk comes
// behind it.
#include <fcntl.h>
#include <signal.h>
#include <sys/wait.h>

#include <future>

#include "end_thread.h"
#include "remote_fixture.h"

namespace moult::host::testing {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Pair;


class RemotePageTest : public RemoteTest {
 protected:
  static void Await(const std::function<bool()>& done) {
    while (!done()) usleep(1000);
  }
  std::shared_ptr<DigestedRemote> digested_ = std::make_shared<DigestedRemote>();
};

// Served by the test itself, one step at a time.
TEST_F(RemotePageTest, Fault_FetchesItsPage_AndTheRestComesBehindIt) {
  FakeVm vm({}, /*threads=*/0);
  const auto pages = Pages(digested_);
  ASSERT_TRUE(pages->by_page());
  ASSERT_TRUE(vm.pager().Show(vm.memory(), pages).ok());
  auto touched = std::async(std::launch::async, [&] { return vm.IsRight(kChunk + 6 * kPage + 17); });
  PageBuffer buffer(RemotePager::kBufferPages);
  Await([&] {
    vm.pager().ServeReady(&buffer);
    return vm.pager().stats().faults == 1;
  });
  EXPECT_TRUE(touched.get());
  EXPECT_THAT(digested_->pieces(), ElementsAre(Pair(kOfChunk + 6, 1)));
  EXPECT_EQ(CheckFile(pages->fd()), 1u);
  EXPECT_EQ(vm.pager().WaitMs(), 0);
  Await([&] {
    vm.pager().ServeReady(&buffer);
    return pages->Has(1);
  });
  EXPECT_THAT(digested_->pieces(), ElementsAre(Pair(kOfChunk + 6, 1), Pair(kOfChunk, 6), Pair(kOfChunk + 7, kOfChunk - 7)));
  EXPECT_EQ(CheckFile(pages->fd()), kOfChunk);
  // All of it is mapped: nobody serves a fault now.
  for (uint64_t at = kChunk; at < 2 * kChunk; at += kPage) EXPECT_TRUE(vm.IsRight(at));
  const RemoteStats stats = vm.pager().stats();
  EXPECT_EQ(stats.fetched_bytes, kChunk);
  EXPECT_EQ(stats.faults, 1u);
  EXPECT_EQ(vm.pager().bytes(vm.memory()).pool, kChunk);
}

TEST_F(RemotePageTest, Digests_ComeByThemselves_AndThenAFaultBringsNone) {
  FakeVm vm({}, /*threads=*/0);
  const auto pages = Pages(digested_);
  ASSERT_TRUE(vm.pager().Show(vm.memory(), pages).ok());
  PageBuffer buffer(RemotePager::kBufferPages);
  Await([&] {
    vm.pager().ServeReady(&buffer);
    return digested_->digest_reads() == 1;
  });
  EXPECT_EQ(digested_->reads(), 0);
  EXPECT_EQ(CheckFile(pages->fd()), 0u);
  std::thread serving([&] { vm.pager().Serve(); });
  EXPECT_TRUE(vm.IsAllRight());
  vm.pager().Stop();
  serving.join();
  EXPECT_EQ(digested_->digest_reads(), 1);
}

TEST_F(RemotePageTest, SecondVm_ReadsNothingFromThePool) {
  {
    FakeVm vm;
    ASSERT_TRUE(vm.pager().Show(vm.memory(), Pages(digested_)).ok());
    EXPECT_TRUE(vm.IsAllRight());
  }
  FakeVm second;
  const auto pages = Pages(source_);
  ASSERT_TRUE(second.pager().Show(second.memory(), pages).ok());
  EXPECT_TRUE(second.IsAllRight());
  EXPECT_EQ(source_->reads(), 0);
  EXPECT_EQ(CheckFile(pages->fd()), kTemplatePages);
}

TEST_F(RemotePageTest, FlippedBit_IsReadAgain) {
  digested_->SetScript([](int nth, uint64_t) { return nth < 2 ? absl::DataLossError("") : absl::OkStatus(); });
  FakeVm vm;
  const auto pages = Pages(digested_);
  ASSERT_TRUE(vm.pager().Show(vm.memory(), pages).ok());
  EXPECT_TRUE(vm.IsRight(7));
  EXPECT_EQ(pages->retries(), 2u);
}

TEST_F(RemotePageTest, DamagedPage_IsNamed_AndNeverShown) {
  digested_->SetScript([](int, uint64_t chunk) { return chunk == 1 ? absl::DataLossError("") : absl::OkStatus(); });
  FakeVm vm(Quick());
  const auto pages = Pages(digested_);
  ASSERT_TRUE(vm.pager().Show(vm.memory(), pages).ok());
  EXPECT_TRUE(vm.IsRight(0));
  auto touched = std::async(std::launch::async, [&] { return vm.Byte(kChunk + 2 * kPage + 3); });
  const auto lost = vm.AwaitLost(1);
  EXPECT_EQ(lost[0].page, vm.memory() + kChunk + 2 * kPage);
  EXPECT_TRUE(absl::IsDataLoss(lost[0].why)) << lost[0].why;
  EXPECT_THAT(lost[0].why.message(), HasSubstr("pages: page 66 (offset 270336) came from the pool, and does not match its digest"));
  EXPECT_TRUE(pages->Missing(1).all());
  CheckFile(pages->fd());
  EXPECT_TRUE(vm.pager().Resolve(0, Resolution::kZero).ok());
  EXPECT_EQ(touched.get(), 0);
}

TEST_F(RemotePageTest, DamagedDigests_AreNamed_AndNothingIsShownByThem) {
  // Of page 70, which is not the one that is touched: the chunk's digests are good together or not at all.
  digested_->Damage(70 * PageDigests::kSize + 5);
  FakeVm vm(Quick());
  const auto pages = Pages(digested_);
  ASSERT_TRUE(vm.pager().Show(vm.memory(), pages).ok());
  // Of others they are good.
  EXPECT_TRUE(vm.IsRight(2 * kChunk));
  auto touched = std::async(std::launch::async, [&] { return vm.Byte(kChunk); });
  const auto lost = vm.AwaitLost(1);
  EXPECT_TRUE(absl::IsDataLoss(lost[0].why)) << lost[0].why;
  EXPECT_THAT(lost[0].why.message(), HasSubstr("pages: the digests of the pages of chunk 1 (offset 262144, 262144 bytes) came "
                                               "from the pool, and do not match its digest"));
  EXPECT_TRUE(pages->Missing(1).all());
  // When the pool is well again, so is the function.
  digested_->Damage(UINT64_MAX);
  EXPECT_TRUE(vm.pager().Resolve(0, Resolution::kRetry).ok());
  EXPECT_EQ(std::byte(touched.get()), ContentAt(kChunk));
}

TEST_F(RemotePageTest, OldTemplate_IsFetchedByChunks) {
  format_ = 1;
  FakeVm vm;
  const auto pages = Pages(digested_);
  EXPECT_FALSE(pages->by_page());
  ASSERT_TRUE(vm.pager().Show(vm.memory(), pages).ok());
  EXPECT_TRUE(vm.IsRight(kChunk + 5));
  EXPECT_THAT(digested_->pieces(), ElementsAre(Pair(kOfChunk, kOfChunk)));
  EXPECT_EQ(digested_->digest_reads(), 0);
}

// What one VMM has begun another goes on with, page by page.
TEST_F(RemotePageTest, ChunkThatWasBegun_IsFilledByAnother) {
  {
    const auto pages = Pages(digested_);
    PageBuffer buffer(kOfChunk);
    const PageSet some = PageSet().set(3).set(4).set(9);
    ASSERT_TRUE(pages->ReadPages(2, some, &buffer, {}).ok());
    ASSERT_TRUE(pages->KeepPages(2, some, buffer.page(0)).ok());
    EXPECT_EQ(pages->Missing(2).count(), kOfChunk - 3);
  }
  FakeVm vm;
  const auto pages = Pages(digested_);
  ASSERT_TRUE(vm.pager().Show(vm.memory(), pages).ok());
  const int before = digested_->reads();
  EXPECT_TRUE(vm.IsRight(2 * kChunk + 4 * kPage));
  EXPECT_EQ(digested_->reads(), before);
  EXPECT_TRUE(vm.IsRight(2 * kChunk + 5 * kPage));
  Await([&] { return vm.pager().stats().fetched_bytes > kPage; });
  EXPECT_EQ(vm.pager().stats().fetched_bytes, kChunk - 3 * kPage);
  EXPECT_EQ(CheckFile(pages->fd()), kOfChunk);
}

TEST_F(RemotePageTest, ClosedVm_KeepsThePagesOfAChunkThatWasBegun) {
  const auto pages = Pages(digested_);
  PageBuffer buffer(kOfChunk);
  ASSERT_TRUE(pages->ReadPages(0, PageSet().set(1), &buffer, {}).ok());
  ASSERT_TRUE(pages->KeepPages(0, PageSet().set(1), buffer.page(0)).ok());
  FakeVm vm;
  ASSERT_TRUE(vm.pager().Show(vm.memory(), pages).ok());
  vm.Stop();
  EXPECT_TRUE(vm.IsRight(kPage + 1));
  EXPECT_EQ(vm.Byte(0), 0);
  EXPECT_EQ(vm.Byte(2 * kPage), 0);
  EXPECT_EQ(CheckFile(pages->fd()), 1u);
}

TEST_F(RemotePageTest, ManyVms_FillTheSamePages) {
  FakeVm vm, other;
  const auto pages = Pages(digested_);
  ASSERT_TRUE(vm.pager().Show(vm.memory(), pages).ok());
  ASSERT_TRUE(other.pager().Show(other.memory(), Pages(digested_)).ok());
  std::vector<std::future<bool>> all;
  for (int i = 0; i < 4; ++i) all.push_back(std::async(std::launch::async, [&, i] { return (i % 2 == 0 ? vm : other).IsAllRight(); }));
  for (auto& one : all) EXPECT_TRUE(one.get());
  EXPECT_EQ(CheckFile(pages->fd()), kTemplatePages);
}

TEST_F(RemotePageTest, KilledFiller_LeavesWholePagesOnly) {
  KillAsItFills([&](const auto& tell) {
    const auto pages = Pages(digested_);
    PageBuffer buffer(kOfChunk);
    // Round after round, each from a file without pages: there is always one half done.
    for (unsigned round = 0;; ++round) {
      for (uint64_t chunk = 0; chunk + 1 < kChunks; ++chunk) {
        const PageSet some(0x9249249249249249 << (round % 3));
        if (!pages->ReadPages(chunk, some, &buffer, {}).ok()) _exit(1);
        (void)pages->KeepPages(chunk, some, buffer.page(0));
        if (chunk == 1) tell();
      }
      if (fallocate(pages->fd(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, kTemplateBytes) != 0) _exit(1);
    }
  });
  const auto pages = Pages(digested_);
  CheckFile(pages->fd());
  FakeVm vm;
  ASSERT_TRUE(vm.pager().Show(vm.memory(), pages).ok());
  EXPECT_TRUE(vm.IsAllRight());
  EXPECT_EQ(CheckFile(pages->fd()), kTemplatePages);
}

TEST_F(RemotePageTest, ThreadThatEndsAsItFetches_IsReplacedByItsNeighbour) {
  digested_->SetScript([](int nth, uint64_t) {
    if (nth == 0) EndThread();
    return absl::OkStatus();
  });
  RemoteConfig config;
  const auto threads = config.threads = *ServingThreads::Create();
  FakeVm vm(config);
  while (threads->count() < 2) std::this_thread::yield();
  ASSERT_TRUE(vm.pager().Show(vm.memory(), Pages(digested_)).ok());
  EXPECT_TRUE(vm.IsRight(5));
  EXPECT_EQ(threads->count(), 1);
  EXPECT_TRUE(vm.IsAllRight());
}

}  // namespace
}  // namespace moult::host::testing
