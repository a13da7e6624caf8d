// SPDX-License-Identifier: Apache-2.0
#include "pool/file/page_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <thread>

#include "memory/guest_memory.h"

namespace moult::host {
namespace {

using ::testing::HasSubstr;

constexpr uint64_t kPages = 1024;

class PageFileTest : public ::testing::Test {
 protected:
  void SetUp() override {
    auto pool = PageFile::Create(std::filesystem::temp_directory_path().string(), kPages * kPage + 5);
    ASSERT_TRUE(pool.ok()) << pool.status();
    pool_ = std::move(*pool);
  }
  static std::vector<std::byte> Pages(size_t count, int salt) {
    std::vector<std::byte> pages(count * kPage);
    for (size_t i = 0; i < pages.size(); ++i)
      pages[i] = static_cast<std::byte>(i / kPage * 31 + i + static_cast<size_t>(salt));
    return pages;
  }
  std::vector<PoolSlot> Write(size_t count, int salt) {
    std::vector<PoolSlot> slots(count);
    const absl::Status status = pool_->Write(Pages(count, salt), absl::MakeSpan(slots));
    EXPECT_TRUE(status.ok()) << status;
    return slots;
  }
  void ExpectContent(absl::Span<const PoolSlot> slots, const std::vector<std::byte>& content) {
    std::vector<std::byte> read(slots.size() * kPage);
    const absl::Status status = pool_->Read(slots, absl::MakeSpan(read));
    ASSERT_TRUE(status.ok()) << status;
    EXPECT_EQ(read, content);
  }
  int64_t Blocks() const {
    struct stat info;
    EXPECT_EQ(fstat(pool_->fd(), &info), 0);
    return info.st_blocks;
  }
  std::unique_ptr<PageFile> pool_;
};

TEST_F(PageFileTest, Read_GivesWhatWasWritten_InAnyOrder) {
  const auto slots = Write(10, 1);
  ExpectContent(slots, Pages(10, 1));
  const std::vector<PoolSlot> turned = {slots[7], slots[8], slots[2]};
  std::vector<std::byte> wanted;
  const auto all = Pages(10, 1);
  for (const size_t i : {7u, 8u, 2u})
    wanted.insert(wanted.end(), all.begin() + static_cast<long>(i * kPage),
                  all.begin() + static_cast<long>((i + 1) * kPage));
  ExpectContent(turned, wanted);
}

TEST_F(PageFileTest, Now_GivesWhatIsInThePageCache_AndFreesWithoutTheFileSystem) {
  const auto slots = Write(10, 1);
  std::vector<std::byte> read(10 * kPage);
  const bool now = pool_->ReadNow(slots, absl::MakeSpan(read));
  if (!now) GTEST_SKIP() << "the file system of the temporary folder cannot say whether a read would wait";
  EXPECT_EQ(read, Pages(10, 1));
  EXPECT_FALSE(pool_->FreeNow(slots)) << "nothing is left in use: all goes back";
  EXPECT_TRUE(pool_->FreeNow(absl::MakeConstSpan(slots).first(3)));
  EXPECT_EQ(pool_->used_bytes(), 7 * kPage);
  // Damaged content is for Read to tell of.
  ASSERT_EQ(pwrite(pool_->fd(), "damage", 6, static_cast<off_t>(static_cast<uint64_t>(slots[5]) * kPage)), 6);
  EXPECT_FALSE(pool_->ReadNow(absl::MakeConstSpan(slots).subspan(4, 3), absl::MakeSpan(read).first(3 * kPage)));
  pool_->Free(absl::MakeConstSpan(slots).subspan(3));
  EXPECT_EQ(pool_->used_bytes(), 0u);
}

TEST_F(PageFileTest, Write_FailsWhole_WhenTheLimitIsReached) {
  EXPECT_EQ(pool_->limit_bytes(), kPages * kPage);
  const auto slots = Write(kPages - 10, 1);
  std::vector<PoolSlot> more(11);
  const absl::Status full = pool_->Write(Pages(11, 2), absl::MakeSpan(more));
  EXPECT_EQ(full.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(full.message()), HasSubstr("raise its limit"));
  EXPECT_EQ(pool_->used_bytes(), (kPages - 10) * kPage);
  const auto last = Write(10, 3);
  // Freed space, which has not been punched yet, is there at once, in pieces too.
  for (const size_t i : {1u, 5u, 9u, 100u, 101u}) pool_->Free({&slots[i], 1});
  EXPECT_EQ(pool_->used_bytes(), (kPages - 5) * kPage);
  const auto again = Write(5, 4);
  ExpectContent(again, Pages(5, 4));
  ExpectContent(last, Pages(10, 3));
}

TEST_F(PageFileTest, Free_GivesSpaceBack) {
  const auto first = Write(512, 1);
  const auto second = Write(512, 2);
  const int64_t both = Blocks();
  pool_->Free(first);
  EXPECT_EQ(pool_->used_bytes(), 512 * kPage);
  EXPECT_LE(Blocks(), both - 512 * 8);
  ExpectContent(second, Pages(512, 2));
  for (const PoolSlot& slot : second) pool_->Free({&slot, 1});
  EXPECT_EQ(pool_->used_bytes(), 0u);
  EXPECT_EQ(Blocks(), 0);
}

// The file system takes its time for many holes.
TEST_F(PageFileTest, WhatIsBeingGivenBack_IsNotUsed_AndIsWaitedFor) {
  for (int round = 0; round < 5; ++round) {
    const auto all = Write(kPages, round);
    std::vector<PoolSlot> freed;
    for (size_t i = 0; i < kPages; i += 2) freed.push_back(all[i]);
    constexpr size_t kPending = 100;
    pool_->Free(absl::MakeConstSpan(freed).first(kPending));
    uint64_t last = (kPages - kPending) * kPage;
    std::thread freeing([&] { pool_->Free(absl::MakeConstSpan(freed).subspan(kPending)); });
    while (last > kPages / 2 * kPage) {
      const uint64_t used = pool_->used_bytes();
      EXPECT_LE(used, last) << "in round " << round;
      last = used;
    }
    for (int look = 0; look < 1000; ++look) ASSERT_EQ(pool_->used_bytes(), last) << "in round " << round;
    const auto next = Write(kPages / 2, round + 1);
    freeing.join();
    ExpectContent(next, Pages(kPages / 2, round + 1));
    pool_->Free(next);
    for (size_t i = 1; i < kPages; i += 2) pool_->Free({&all[i], 1});
    ASSERT_EQ(pool_->used_bytes(), 0u);
  }
}

TEST_F(PageFileTest, Read_FindsEveryChange) {
  const auto slots = Write(3, 1);
  const auto expect = [&](const char* message) {
    std::vector<std::byte> read(3 * kPage);
    const absl::Status status = pool_->Read(slots, absl::MakeSpan(read));
    EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr(message));
  };
  const auto pages = Pages(3, 1);
  const std::byte flipped = pages[2 * kPage - 1] ^ std::byte{1};
  ASSERT_EQ(pwrite(pool_->fd(), &flipped, 1, 2 * kPage - 1), 1);
  expect("slot 1 does not match its checksum");
  ASSERT_EQ(ftruncate(pool_->fd(), kPage), 0);
  expect("cut short");
}

TEST(PageFile, Hugetlbfs_IsRefused) {
  const std::string folder = std::filesystem::temp_directory_path() / ("moult-huge-" + std::to_string(getpid()));
  std::filesystem::create_directory(folder);
  if (mount("none", folder.c_str(), "hugetlbfs", 0, "") != 0) {
    std::filesystem::remove(folder);
    GTEST_SKIP() << "needs the right to mount hugetlbfs: " << std::strerror(errno);
  }
  const auto pool = PageFile::Create(folder, 1 << 20);
  umount(folder.c_str());
  std::filesystem::remove(folder);
  EXPECT_EQ(pool.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(pool.status().message(), HasSubstr("is on hugetlbfs, whose files cannot be written; use tmpfs"));
}

TEST(PageFile, Create_SaysWhatIsWrong) {
  EXPECT_EQ(PageFile::Create("/nonexistent", 1 << 20).status().code(), absl::StatusCode::kNotFound);
  const auto none = PageFile::Create("/tmp", 100);
  EXPECT_EQ(none.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(none.status().message()), HasSubstr("pool file:/tmp: limit"));
  EXPECT_EQ(PageFile::Create("/proc", 1 << 20).status().code(), absl::StatusCode::kUnimplemented);
}

}  // namespace
}  // namespace moult::host
