// SPDX-License-Identifier: Apache-2.0
#include <fcntl.h>
#include <sys/socket.h>

#include "pager_fixture.h"

namespace moult::host::testing {
namespace {

using ::testing::HasSubstr;

INSTANTIATE_TEST_SUITE_P(Kinds, PagerTest, ::testing::Values(Kind::kMemfd, Kind::kAnonymous), KindName);

TEST_P(PagerTest, Content_IsTheSame_WhenTouchedAfterOffload) {
  Start(2048);
  FillRam();
  const uint64_t before = HostBytes();
  const OffloadResult result = Offload(Scattered(16, 1024));
  EXPECT_EQ(result.moved_bytes + result.zero_bytes, 1024 * kPage);
  EXPECT_EQ(result.zero_bytes, 128 * kPage);
  EXPECT_EQ(result.stayed_bytes, 0u);
  EXPECT_EQ(before - HostBytes(), (1024 - 64) * kPage);  // Every 16th had never been touched.
  EXPECT_EQ(pool_->used_bytes(), result.moved_bytes);
  EXPECT_EQ(pager_->owner_stats(kOwner).offloaded_bytes, result.moved_bytes);
  ExpectWhole(0, pages_);
  AwaitPool(0);
  AwaitOut(0);
  const PagerCounts counts = pager_->owner_stats(kOwner);
  EXPECT_EQ(counts.fault_pages, 1024u);
  EXPECT_LT(counts.faults, 600u);  // Neighbours came along.
  // The last one is counted when it is over.
  for (uint64_t timed = 0; timed != counts.faults;) {
    timed = 0;
    for (const uint64_t count : pager_->stats().fault_us) timed += count;
  }
}

TEST_P(PagerTest, RecallAll_BringsEverythingBack) {
  Start(1024);
  FillRam();
  Offload(Scattered(0, 1024));
  EXPECT_EQ(HostBytes(), 0u);
  ASSERT_TRUE(pager_->Recall(kOwner, Prefetch::kAll).ok());
  EXPECT_EQ(pager_->owner_stats(kOwner).prefetched_pages, 1024u - 128u);
  EXPECT_EQ(pool_->used_bytes(), 0u);
  ExpectWhole(0, 1024);
  EXPECT_EQ(pager_->owner_stats(kOwner).faults, 0u);
}

TEST_P(PagerTest, Recall_FetchesTheWorkingSetOfTheLastOne) {
  PagerConfig config;
  config.neighbours = 0;
  config.working_set_window = std::chrono::hours(1);
  Start(256, 2, kPoolBytes, config);
  FillRam();
  Offload(Straight(0, 256));
  ASSERT_TRUE(pager_->Recall(kOwner, Prefetch::kNone).ok());
  for (const uint64_t page : {200u, 9u, 100u, 33u}) EXPECT_TRUE(PageIsWhole(page));
  // The same virtual pages in other frames.
  std::vector<OffloadRun> moved;
  ASSERT_TRUE(pager_->Recall(kOwner, Prefetch::kAll).ok());
  for (uint64_t i = 0; i < 256; ++i) moved.push_back({Range(255 - i), kVa + i * kPage, 1});
  Offload(moved);
  EXPECT_EQ(HostBytes(), 0u);
  ASSERT_TRUE(pager_->Recall(kOwner, Prefetch::kWorkingSet).ok());
  std::vector<unsigned char> there(256);
  ASSERT_EQ(mincore(ram_, 256 * kPage, there.data()), 0);
  std::vector<uint64_t> back;
  for (uint64_t i = 0; i < 256; ++i) {
    if (there[i] & 1) back.push_back(i);
  }
  EXPECT_EQ(back, (std::vector<uint64_t>{55, 155, 222, 246}));
  ExpectWhole(0, 256);
}

TEST_P(PagerTest, SystemCall_WritesIntoAnOffloadedBuffer) {
  Start(64);
  FillRam();
  Offload(Scattered(0, 64));
  int ends[2];
  ASSERT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
  const std::string text = "through the kernel";
  ASSERT_EQ(write(ends[0], text.data(), text.size()), static_cast<ssize_t>(text.size()));
  ASSERT_EQ(read(ends[1], Page(8) + kPage - 5, text.size()), static_cast<ssize_t>(text.size()));
  EXPECT_EQ(std::memcmp(Page(8) + kPage - 5, text.data(), text.size()), 0);
  EXPECT_EQ(Word(8), Pattern(8, 0));
  EXPECT_EQ(Word(9, 100), Pattern(9, 100));
  const int self = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
  ASSERT_EQ(pread(self, Page(20), 4 * kPage, 0), static_cast<ssize_t>(4 * kPage));
  EXPECT_EQ(std::memcmp(Page(20), "\177ELF", 4), 0);
  EXPECT_EQ(write(ends[0], Page(40), 2 * kPage), static_cast<ssize_t>(2 * kPage));  // Out of one.
  close(self);
  close(ends[0]);
  close(ends[1]);
}

TEST_P(PagerTest, Offload_KeepsWhatIsOut_AndMovesTheRest) {
  Start(512);
  FillRam();
  Offload(Straight(0, 512));
  ASSERT_TRUE(pager_->Recall(kOwner, Prefetch::kNone).ok());
  for (uint64_t page = 0; page < 512; page += 37) EXPECT_TRUE(PageIsWhole(page));
  uint64_t out;
  do {
    const PagerCounts counts = pager_->owner_stats(kOwner);
    out = counts.offloaded_bytes + counts.zero_bytes;
  } while (out != 512 * kPage - HostBytes());  // The last fault's neighbours are on their way.
  const OffloadResult result = Offload(Scattered(0, 512));
  EXPECT_EQ(result.already_bytes, out);
  EXPECT_EQ(result.moved_bytes + result.zero_bytes, 512 * kPage - out);
  EXPECT_EQ(HostBytes(), 0u);
  ASSERT_TRUE(pager_->RecallAll().ok());
  ExpectWhole(0, 512);
}

TEST_P(PagerTest, Drop_GivesZeros_AndThePoolItsSpace) {
  Start(512);
  FillRam();
  Offload(Straight(0, 512));
  ASSERT_TRUE(pager_->Drop(Range(0, 256))->empty());
  EXPECT_EQ(pool_->used_bytes(), (256 - 32) * kPage);
  for (uint64_t page = 0; page < 256; ++page) ASSERT_EQ(Word(page, page), 0u) << page;
  ExpectWhole(256, 16);
  DropAll();
  ExpectPoolIsEmpty();
  EXPECT_EQ(pager_->stats().total.offloaded_bytes + pager_->stats().total.zero_bytes, 0u);
  EXPECT_EQ(Word(500), 0u);
  FillRam();
  ExpectWhole(0, 512);
  struct stat info;
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(60);
  do {  // One of the threads may be about to give the last of it back.
    ASSERT_EQ(fstat(pool_->fd(), &info), 0);
    ASSERT_LT(std::chrono::steady_clock::now(), deadline) << info.st_blocks << " blocks are left";
  } while (info.st_blocks != 0);
}

TEST_P(PagerTest, DropOwner_LeavesOthersAlone) {
  Start(128);
  FillRam();
  Offload(Straight(0, 64), 1);
  Offload(Straight(64, 64), 2);
  EXPECT_TRUE(pager_->DropOwner(1));
  EXPECT_EQ(pager_->owner_stats(1).zero_bytes, 0u);
  EXPECT_EQ(Word(5), 0u);
  ExpectWhole(64, 64);
}

TEST_P(PagerTest, Populate_NeedsNoServingThread) {
  Start(1024, /*threads=*/0);
  FillRam();
  Offload(Scattered(0, 700));
  ASSERT_TRUE(pager_->Populate(Range(100, 600)).ok());
  for (uint64_t page = 100; page < 700; ++page) ASSERT_TRUE(PageIsWhole(page)) << page;
  EXPECT_EQ(pager_->owner_stats(kOwner).faults, 0u);
  Serve(1);
  ExpectWhole(0, 1024);
}

TEST_P(PagerTest, Offload_UndoesEverything_WhenThePoolIsFull) {
  Start(1024, 2, 512 * kPage);
  FillRam();
  const auto result = pager_->Offload(kOwner, Scattered(0, 1024));
  EXPECT_EQ(result.status().code(), absl::StatusCode::kResourceExhausted) << result.status();
  EXPECT_THAT(std::string(result.status().message()),
              HasSubstr("offload of function 7: nothing is offloaded: pool file:"));
  EXPECT_THAT(std::string(result.status().message()), HasSubstr("is full"));
  EXPECT_EQ(pool_->used_bytes(), 0u);
  ExpectWhole(0, 1024);
  EXPECT_EQ(pager_->stats().total.faults, 0u);
  FillRam();
  Offload(Scattered(0, 512));
  ExpectWhole(0, 1024);
}

TEST_P(PagerTest, Offload_RefusesWhatIsNotGuestMemory_BeforeItDoesAnything) {
  Start(64);
  FillRam();
  const auto expect = [&](OffloadRun bad, absl::StatusCode code, const char* message) {
    const auto result = pager_->Offload(kOwner, {{Range(0, 8), kVa, 1}, bad});
    EXPECT_EQ(result.status().code(), code) << result.status();
    EXPECT_THAT(std::string(result.status().message()), HasSubstr(message));
    EXPECT_EQ(pool_->used_bytes(), 0u);
  };
  using enum absl::StatusCode;
  expect({Range(60, 5), kVa, 1}, kOutOfRange, "not inside one region");
  expect({{GuestPhys(0), kPage}, kVa, 1}, kOutOfRange, "not inside one region");
  expect({{GuestPhys(kGuestGpa), UINT64_MAX / kPage * kPage}, kVa, 1}, kOutOfRange, "not inside one region");
  expect({{GuestPhys(kGuestGpa + 1), kPage}, kVa, 1}, kInvalidArgument, "not whole pages");
  expect({{GuestPhys(kGuestGpa), 0}, kVa, 1}, kInvalidArgument, "not whole pages");
  expect({Range(8), kVa + 1, 1}, kInvalidArgument, "virtual address");
  expect({Range(8), ~uint64_t{4095}, 1}, kInvalidArgument, "wraps");
  expect({Range(0, 64), kVa, 1}, kInvalidArgument, "more pages than the guest has");
  EXPECT_EQ(pager_->Populate(Range(0, 65)).code(), kOutOfRange);
  EXPECT_EQ(pager_->Drop(Range(64)).status().code(), kOutOfRange);
  EXPECT_EQ(pager_->stats().total.faults, 0u);
}

TEST_P(PagerTest, Offload_TakesAPageOnce_WhenItIsNamedTwice) {
  Start(64);
  FillRam();
  const auto result = pager_->Offload(kOwner, {{Range(0, 8), kVa, 1}, {Range(4, 8), kVa + 8 * kPage, 1}});
  ASSERT_TRUE(result.ok());
  EXPECT_EQ(result->moved_bytes + result->zero_bytes, 12 * kPage);
  EXPECT_EQ(result->stayed_bytes, 4 * kPage);
  ExpectWhole(0, 64);
}

TEST_P(PagerTest, Stop_EndsServe) {
  Start(64, 4);
  FillRam();
  Offload(Straight(0, 64));
  ExpectWhole(0, 64);
  pager_->Stop();
  for (std::thread& thread : serving_) thread.join();
  serving_.clear();
  pager_->Serve();  // At once: it stays stopped.
}

TEST_P(PagerTest, Recall_EndsWhenCancelled) {
  Start(64);
  FillRam();
  Offload(Straight(0, 64));
  std::stop_source source;
  source.request_stop();
  EXPECT_EQ(pager_->Recall(kOwner, Prefetch::kAll, source.get_token()).code(), absl::StatusCode::kCancelled);
  EXPECT_EQ(HostBytes(), 0u);
  ExpectWhole(0, 64);
}

}  // namespace
}  // namespace moult::host::testing
