// SPDX-License-Identifier: Apache-2.0
//
// A cache on a tmpfs that fills up as pages come.
#include <sys/mount.h>

#include <cerrno>

#include "remote_fixture.h"

namespace moult::host::testing {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::UnorderedElementsAre;

constexpr uint64_t kRoom = 150;  // pages: two chunks and a part of the third

class FullCacheTest : public RemoteTest {
 protected:
  void SetUp() override {
    RemoteTest::SetUp();
    if (HasFatalFailure()) return;
    const std::string options = "mode=0700,size=" + std::to_string(kRoom * kPage);
    if (mount("none", folder_.c_str(), "tmpfs", 0, options.c_str()) != 0) {
      GTEST_SKIP() << "needs the right to mount a small tmpfs: " << std::strerror(errno);
    }
    mounted_ = true;
    cache_ = OpenCache();
  }
  void TearDown() override {
    if (mounted_) {
      EXPECT_EQ(umount2(folder_.c_str(), MNT_DETACH), 0) << std::strerror(errno);
    }
    RemoteTest::TearDown();
  }
  // Now it has room for all.
  void Grow() {
    ASSERT_EQ(mount("none", folder_.c_str(), "tmpfs", MS_REMOUNT, "size=4m"), 0) << std::strerror(errno);
  }
  static absl::Status Fill(RemotePages& pages) {
    return pages.FetchAll(RemotePages::Clock::now() + std::chrono::seconds(60));
  }
  std::vector<std::string> Files() const {
    std::vector<std::string> names;
    for (const auto& entry : std::filesystem::directory_iterator(cache_->folder())) {
      names.push_back(entry.path().filename().string());
    }
    return names;
  }

 private:
  bool mounted_ = false;
};

TEST_F(FullCacheTest, Pages_AreRight_AndWhatWasNotKeptIsCounted) {
  {
    FakeVm vm;
    const auto pages = Pages(source_);
    ASSERT_TRUE(vm.pager().Show(vm.memory(), pages).ok());
    EXPECT_TRUE(vm.IsAllRight(1));
    const RemoteStats stats = vm.pager().stats();
    EXPECT_EQ(stats.fetched_bytes, kTemplateBytes);
    EXPECT_EQ(stats.unkept_bytes, (kTemplatePages - kRoom) * kPage);
    EXPECT_EQ(stats.lost_slots, 0u);
    EXPECT_EQ(CheckFile(pages->fd()), kRoom);
  }
  EXPECT_THAT(Files(), UnorderedElementsAre(".lock", std::string(kDigest) + ".pages"));
  // Another maps what is there, also of the chunk that was cut short.
  FakeVm second;
  const auto pages = Pages(source_);
  ASSERT_TRUE(second.pager().Show(second.memory(), pages).ok());
  EXPECT_TRUE(second.IsAllRight(1));
  const RemoteStats stats = second.pager().stats();
  EXPECT_EQ(stats.hit_bytes, kRoom * kPage);
  EXPECT_EQ(stats.unkept_bytes, (kTemplatePages - kRoom) * kPage);
  EXPECT_EQ(CheckFile(pages->fd()), kRoom);
}

TEST_F(FullCacheTest, SinglePages_AreRight_AndWhatWasNotKeptIsCounted) {
  FakeVm vm;
  const auto pages = Pages(std::make_shared<DigestedRemote>());
  ASSERT_TRUE(pages->by_page());
  ASSERT_TRUE(vm.pager().Show(vm.memory(), pages).ok());
  EXPECT_TRUE(vm.IsAllRight(1));
  // One that was touched comes again with the rest of its chunk.
  EXPECT_GE(vm.pager().stats().unkept_bytes, (kTemplatePages - kRoom) * kPage);
  EXPECT_EQ(CheckFile(pages->fd()), kRoom);
}

TEST_F(FullCacheTest, ChunkThatWasCutShort_IsCompleted_WhenThereIsRoom) {
  {
    const auto pages = Pages(source_);
    const absl::Status full = Fill(*pages);
    EXPECT_TRUE(absl::IsResourceExhausted(full)) << full;
    EXPECT_THAT(full.message(), HasSubstr("keep chunk 2 of template aaaabbbb: "));
    EXPECT_EQ(CheckFile(pages->fd()), kRoom);
  }
  Grow();
  FakeVm vm;
  const auto pages = Pages(source_);
  ASSERT_TRUE(vm.pager().Show(vm.memory(), pages).ok());
  EXPECT_TRUE(vm.IsAllRight(1));
  EXPECT_EQ(vm.pager().stats().unkept_bytes, 0u);
  EXPECT_EQ(CheckFile(pages->fd()), kTemplatePages);
}

TEST_F(FullCacheTest, WorkingSet_IsFetchedOnce) {
  cache_->SetWorkingSet(kDigest, {4, 0, 3, 2});  // Takes a page of the room.
  FakeVm vm;
  const auto pages = Pages(source_);
  ASSERT_TRUE(vm.pager().Show(vm.memory(), pages).ok());
  while (vm.pager().stats().prefetched_bytes < 4 * kChunk) usleep(1000);
  EXPECT_TRUE(vm.IsAllRight(1));
  EXPECT_THAT(source_->chunks(), ElementsAre(4, 0, 3, 2, 1, 5));
  EXPECT_EQ(vm.pager().stats().unkept_bytes, (kTemplatePages - (kRoom - 1)) * kPage);
  EXPECT_EQ(CheckFile(pages->fd()), kRoom - 1);
}

TEST_F(FullCacheTest, Rest_IsFetchedNoMore) {
  RemoteConfig config;
  config.prefetch_bytes_per_s = 1 << 30;
  FakeVm vm(config);
  const auto pages = Pages(source_);
  ASSERT_TRUE(vm.pager().Show(vm.memory(), pages).ok());
  const auto deadline = RemotePages::Clock::now() + std::chrono::minutes(1);
  while (vm.pager().stats().unkept_bytes == 0 && RemotePages::Clock::now() < deadline) usleep(1000);
  EXPECT_EQ(vm.pager().stats().prefetch_failures, 0u);
  EXPECT_EQ(vm.pager().stats().unkept_bytes, (4 * kOfChunk - kRoom) * kPage);
  EXPECT_TRUE(vm.IsAllRight(1));
  // The last four by faults.
  EXPECT_THAT(source_->chunks(), ElementsAre(0, 1, 2, 3, 2, 3, 4, 5));
  EXPECT_EQ(vm.pager().stats().prefetched_bytes, 4 * kChunk);
  EXPECT_EQ(CheckFile(pages->fd()), kRoom);
}

TEST_F(FullCacheTest, WorkingSet_ThatCannotBeWritten_LeavesTheOldOne) {
  cache_->SetWorkingSet(kDigest, {3, 1});
  const auto pages = Pages(source_);
  ASSERT_TRUE(absl::IsResourceExhausted(Fill(*pages)));
  cache_->SetWorkingSet(kDigest, {2});
  EXPECT_THAT(cache_->WorkingSet(kDigest, kChunks), ElementsAre(3, 1));
  const std::string digest = kDigest;
  EXPECT_THAT(Files(), UnorderedElementsAre(".lock", digest + ".pages", digest + ".set"));
}

}  // namespace
}  // namespace moult::host::testing
