// SPDX-License-Identifier: Apache-2.0
#include "pool/file/page_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>

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

TEST(PageFile, Create_SaysWhatIsWrong) {
  EXPECT_EQ(PageFile::Create("/nonexistent", 1 << 20).status().code(), absl::StatusCode::kNotFound);
  const auto none = PageFile::Create("/tmp", 100);
  EXPECT_EQ(none.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(none.status().message()), HasSubstr("pool file:/tmp: limit"));
  EXPECT_EQ(PageFile::Create("/proc", 1 << 20).status().code(), absl::StatusCode::kUnimplemented);
}

}  // namespace
}  // namespace moult::host
