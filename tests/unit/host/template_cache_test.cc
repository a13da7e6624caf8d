// SPDX-License-Identifier: Apache-2.0
#include "pool/cache/template_cache.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

namespace moult::host::testing {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr uint64_t kMiB = 1 << 20;

class CacheTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = "/dev/shm/moult-test-XXXXXX";
    ASSERT_NE(mkdtemp(pattern.data()), nullptr);
    folder_ = pattern;
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }
  std::unique_ptr<TemplateCache> Open(uint64_t limit, const std::string& tenant = "red") {
    auto cache = TemplateCache::Open(folder_, tenant, limit);
    EXPECT_TRUE(cache.ok()) << cache.status();
    return *std::move(cache);
  }
  static uint64_t Inode(int fd) {
    struct stat info;
    EXPECT_EQ(fstat(fd, &info), 0);
    return info.st_ino;
  }
  bool IsThere(const TemplateCache& cache, const char* digest) {
    return std::filesystem::exists(cache.folder() + "/" + digest + ".pages");
  }
  std::string folder_;
};

TEST_F(CacheTest, Entry_IsOneForAllProcesses) {
  const auto cache = Open(8 * kMiB), other = Open(8 * kMiB);
  const auto first = cache->Take("a1", kMiB), second = other->Take("a1", kMiB);
  ASSERT_TRUE(first.ok() && second.ok());
  EXPECT_EQ(Inode(first->fd()), Inode(second->fd()));
  EXPECT_TRUE(first->shared());
  EXPECT_EQ(cache->Use().templates, 1u);
  const auto blue = Open(8 * kMiB, "blue")->Take("a1", kMiB);
  ASSERT_TRUE(blue.ok());
  EXPECT_NE(Inode(blue->fd()), Inode(first->fd()));
}

TEST_F(CacheTest, Unused_GoesFirstThatWasUsedLongestAgo) {
  const auto cache = Open(3 * kMiB);
  for (const char* digest : {"a1", "a2", "a3"}) ASSERT_TRUE(cache->Take(digest, kMiB).ok());
  ASSERT_TRUE(cache->Take("a1", kMiB).ok());  // Used again.
  ASSERT_TRUE(cache->Take("a4", kMiB).ok());
  EXPECT_TRUE(IsThere(*cache, "a1"));
  EXPECT_FALSE(IsThere(*cache, "a2"));
  EXPECT_TRUE(IsThere(*cache, "a3"));
  EXPECT_TRUE(IsThere(*cache, "a4"));
}

TEST_F(CacheTest, Used_StaysAndTheNextIsRefused) {
  const auto cache = Open(2 * kMiB);
  auto a = cache->Take("a1", kMiB);
  const auto again = Open(2 * kMiB)->Take("a1", kMiB);  // The second user.
  const auto b = cache->Take("a2", kMiB);
  ASSERT_TRUE(a.ok() && again.ok() && b.ok());
  const auto refused = cache->Take("a3", kMiB);
  EXPECT_TRUE(absl::IsResourceExhausted(refused.status()));
  EXPECT_THAT(refused.status().message(),
              HasSubstr("2097152 of 2097152 bytes are templates in use, and this one has 1048576"));
  a = absl::UnknownError("not used any more");
  EXPECT_FALSE(cache->Take("a3", kMiB).ok()) << "its other user still has it";
  EXPECT_TRUE(IsThere(*cache, "a1"));
}

TEST_F(CacheTest, User_ThatIsKilledHoldsNothing) {
  const auto cache = Open(kMiB);
  int ready[2];
  ASSERT_EQ(pipe(ready), 0);
  const pid_t child = fork();
  if (child == 0) {
    const auto entry = cache->Take("a1", kMiB);
    (void)!write(ready[1], entry.ok() ? "y" : "n", 1);
    for (;;) pause();
  }
  char said;
  ASSERT_EQ(read(ready[0], &said, 1), 1);
  ASSERT_EQ(said, 'y');
  EXPECT_TRUE(absl::IsResourceExhausted(cache->Take("a2", kMiB).status()));
  kill(child, SIGKILL);
  waitpid(child, nullptr, 0);
  EXPECT_TRUE(cache->Take("a2", kMiB).ok());
  EXPECT_FALSE(IsThere(*cache, "a1"));
  close(ready[0]);
  close(ready[1]);
}

TEST_F(CacheTest, Entry_LeftBeforeItHadItsSizeIsMadeAnew) {
  const auto cache = Open(4 * kMiB);
  std::ofstream(cache->folder() + "/a1.pages") << "";
  const auto entry = cache->Take("a1", kMiB);
  ASSERT_TRUE(entry.ok()) << entry.status();
  struct stat info;
  ASSERT_EQ(fstat(entry->fd(), &info), 0);
  EXPECT_EQ(static_cast<uint64_t>(info.st_size), kMiB);
}

TEST_F(CacheTest, Folder_ThatOthersEnterIsRefused) {
  chmod(folder_.c_str(), 0755);
  const auto cache = TemplateCache::Open(folder_, "red", kMiB);
  EXPECT_TRUE(absl::IsFailedPrecondition(cache.status()));
  EXPECT_THAT(cache.status().message(), HasSubstr("others can enter it; remove it, or name another folder"));
}

TEST_F(CacheTest, Folder_ThatIsNoTmpfsIsRefused) {
  const auto cache = TemplateCache::Open("/proc/self/moult", "red", kMiB);
  EXPECT_FALSE(cache.ok());
  EXPECT_THAT(cache.status().message(), HasSubstr("cache /proc/self/moult"));
}

TEST_F(CacheTest, WorkingSet_IsReadStrictly) {
  const auto cache = Open(kMiB);
  EXPECT_THAT(cache->WorkingSet("a1", 9), IsEmpty());
  cache->SetWorkingSet("a1", {7, 2, 5});
  EXPECT_THAT(cache->WorkingSet("a1", 9), ElementsAre(7, 2, 5));
  EXPECT_THAT(cache->WorkingSet("a1", 6), ElementsAre(2, 5));
  std::ofstream(cache->folder() + "/a1.set") << "3\nx\n-1\n3\n99999999999999999999\n1";
  EXPECT_THAT(cache->WorkingSet("a1", 9), ElementsAre(3, 1));
}

}  // namespace
}  // namespace moult::host::testing
