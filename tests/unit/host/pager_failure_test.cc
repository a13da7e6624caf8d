// SPDX-License-Identifier: Apache-2.0
#include <fcntl.h>
#include <sys/syscall.h>

#include <csetjmp>
#include <csignal>

#include "pager_fixture.h"

namespace moult::host::testing {
namespace {

using ::testing::HasSubstr;

class PagerFailure : public PagerTest {
 protected:
  void StartShort(uint64_t pages = 64) {
    PagerConfig config;
    config.neighbours = 7;
    config.read_deadline = std::chrono::milliseconds(60);
    Start(pages, 2, kPoolBytes, config);
    FillRam();
    Offload(Straight(0, pages));
  }
  // Where page `page` of Straight lies in the pool: pages of zeros have no place.
  static off_t PoolOffset(uint64_t page) {
    uint64_t slot = 0;
    for (uint64_t i = 0; i < page; ++i) slot += Zero(i) ? 0 : 1;
    return static_cast<off_t>(slot * kPage);
  }
  void Damage(uint64_t page) const { Overwrite(page, 100, "damage"); }
  void Overwrite(uint64_t page, off_t at, const std::string& with) const {
    ASSERT_EQ(pwrite(pool_->fd(), with.data(), with.size(), PoolOffset(page) + at),
              static_cast<ssize_t>(with.size()));
  }
  // As it was: the pool is well again.
  void Repair(uint64_t page) const {
    std::vector<uint64_t> words(kPage / 8);
    for (uint64_t w = 0; w < words.size(); ++w) words[w] = Pattern(page, w);
    ASSERT_EQ(pwrite(pool_->fd(), words.data(), kPage, PoolOffset(page)), static_cast<ssize_t>(kPage));
  }
  void AwaitLost() {
    while (Lost() == 0) std::this_thread::yield();
  }
};
INSTANTIATE_TEST_SUITE_P(Kinds, PagerFailure, ::testing::Values(Kind::kMemfd, Kind::kAnonymous), KindName);

TEST_P(PagerFailure, DamagedPage_IsLost_AndItsFaultWaitsForZeros) {
  StartShort();
  Damage(10);
  std::atomic<bool> answered{false};
  uint64_t got = 1;
  std::thread toucher([&] {
    got = Word(10);
    answered = true;
  });
  AwaitLost();
  EXPECT_EQ(lost_[0].owner, kOwner);
  EXPECT_EQ(lost_[0].gpa, kGuestGpa + 10 * kPage);
  EXPECT_EQ(lost_[0].why.code(), absl::StatusCode::kDataLoss);
  EXPECT_THAT(std::string(lost_[0].why.message()), HasSubstr("does not match its checksum"));
  EXPECT_EQ(pager_->owner_stats(kOwner).lost_pages, 1u);
  // All others are served, its neighbours too.
  for (uint64_t page = 0; page < 64; ++page) {
    ASSERT_TRUE(page == 10 || PageIsWhole(page)) << page;
  }
  EXPECT_FALSE(answered);
  EXPECT_THAT(std::string(pager_->Populate(Range(8, 4)).message()), HasSubstr("a page is lost"));
  EXPECT_EQ(pager_->Recall(kOwner, Prefetch::kAll).code(), absl::StatusCode::kDataLoss);
  EXPECT_FALSE(answered);
  EXPECT_EQ(Lost(), 1u);
  ASSERT_TRUE(pager_->Resolve(kOwner, Resolution::kZero).ok());
  toucher.join();
  EXPECT_EQ(got, 0u);
  EXPECT_EQ(pager_->owner_stats(kOwner).lost_pages, 0u);
  EXPECT_EQ(pager_->Resolve(kOwner, Resolution::kZero).code(), absl::StatusCode::kNotFound);
  AwaitPool(0);
}

TEST_P(PagerFailure, ReadError_IsTriedAgain_UntilThePoolIsWell) {
  PagerConfig config;
  config.read_deadline = std::chrono::hours(1);
  Start(64, 1, kPoolBytes, config);
  FillRam();
  Offload(Straight(0, 64));
  Damage(20);
  std::thread toucher([&] { EXPECT_TRUE(PageIsWhole(20)); });
  while (pager_->owner_stats(kOwner).faults < 3) std::this_thread::yield();  // Two tries more.
  EXPECT_TRUE(PageIsWhole(40));                                              // By the same thread.
  Repair(20);
  toucher.join();
  EXPECT_EQ(Lost(), 0u);
  ExpectWhole(0, 64);
}

TEST_P(PagerFailure, LostPage_IsWhole_WhenItIsTriedAgain) {
  StartShort();
  Damage(10);
  std::thread toucher([&] { EXPECT_TRUE(PageIsWhole(10)); });
  AwaitLost();
  Repair(10);
  ASSERT_TRUE(pager_->Resolve(kOwner, Resolution::kRetry).ok());
  toucher.join();
  ExpectWhole(0, 64);
}

TEST_P(PagerFailure, DamagedPages_HoldBackNoneBehindThem) {
  StartShort(2048);
  Damage(10);
  Damage(600);
  const absl::Status recalled = pager_->Recall(kOwner, Prefetch::kAll);
  EXPECT_EQ(recalled.code(), absl::StatusCode::kDeadlineExceeded) << recalled;
  EXPECT_THAT(std::string(recalled.message()), HasSubstr("does not match its checksum"));
  EXPECT_EQ(pager_->owner_stats(kOwner).offloaded_bytes, 2 * kPage) << "those two alone are still out";
  Repair(10);
  Repair(600);
  EXPECT_TRUE(pager_->Recall(kOwner, Prefetch::kAll).ok());
  ExpectWhole(0, 2048);
  EXPECT_EQ(Lost(), 0u);
}

TEST_P(PagerFailure, DamagedPages_HoldBackNoneBehindThem_BitByBit) {
  StartShort(2048);
  Damage(10);
  Damage(600);
  absl::StatusOr<bool> all = false;
  while (all.ok()) {
    ASSERT_FALSE(*all);
    all = pager_->RecallSome(kOwner, std::chrono::steady_clock::now());
  }
  EXPECT_EQ(all.status().code(), absl::StatusCode::kDataLoss) << all.status();
  EXPECT_EQ(pager_->owner_stats(kOwner).offloaded_bytes, 2 * kPage) << "those two alone are still out";
  // Nobody wants one of them, and the other one has become well.
  pager_->DropUnwanted(kOwner, [](GuestPhys gpa) { return gpa == GuestPhys(kGuestGpa + 10 * kPage); });
  Repair(600);
  all = pager_->RecallSome(kOwner, std::chrono::steady_clock::now());
  while (all.ok() && !*all) all = pager_->RecallSome(kOwner, std::chrono::steady_clock::now());
  EXPECT_TRUE(all.ok()) << all.status();
  EXPECT_EQ(Word(10), 0u);
  ExpectWhole(11, 2037);
}

TEST_P(PagerFailure, LostHook_IsCalledOnceForAnOwner) {
  StartShort();
  Damage(10);
  Damage(30);
  std::thread first([&] { (void)Word(10); });
  std::thread second([&] { (void)Word(30); });
  while (pager_->owner_stats(kOwner).lost_pages < 2) std::this_thread::yield();
  ASSERT_TRUE(pager_->Resolve(kOwner, Resolution::kZero).ok());
  first.join();
  second.join();
  // A thread that serves them may tell of it only now; it has when it ends.
  pager_->Stop();
  for (std::thread& thread : serving_) thread.join();
  serving_.clear();
  EXPECT_EQ(Lost(), 1u);
}

TEST_P(PagerFailure, LostPage_IsZero_WhenItsOwnerIsDropped) {
  StartShort();
  Damage(10);
  uint64_t got = 1;
  std::thread toucher([&] { got = Word(10); });
  AwaitLost();
  DropAll();
  toucher.join();
  EXPECT_EQ(got, 0u);
  EXPECT_EQ(pager_->stats().total.lost_pages, 0u);
  AwaitPool(0);
}

TEST_P(PagerFailure, LostPage_IsToldOf_WhenAnEarlierOneWasDropped) {
  StartShort();
  Damage(10);
  std::thread first([&] { (void)Word(10); });
  AwaitLost();
  ASSERT_TRUE(pager_->Drop(Range(10))->empty());
  first.join();
  Damage(30);
  std::thread second([&] { (void)Word(30); });
  while (Lost() < 2) std::this_thread::yield();
  ASSERT_TRUE(pager_->Resolve(kOwner, Resolution::kZero).ok());
  second.join();
}

sigjmp_buf poisoned;
void OnSigbus(int) { siglongjmp(poisoned, 1); }

TEST_P(PagerFailure, LostPage_IsPoison_WhenResolvedSo) {
  StartShort();
  Damage(10);
  std::atomic<bool> killed{false};
  struct sigaction action {};
  struct sigaction old {};
  action.sa_handler = OnSigbus;
  ASSERT_EQ(sigaction(SIGBUS, &action, &old), 0);
  std::thread toucher([&] {
    if (sigsetjmp(poisoned, 1) == 0) {
      (void)Word(10);
    } else {
      killed = true;
    }
  });
  AwaitLost();
  const absl::Status status = pager_->Resolve(kOwner, Resolution::kPoison);
  if (!status.ok()) {
    EXPECT_EQ(status.code(), absl::StatusCode::kUnimplemented) << status;
    EXPECT_EQ(pager_->Resolve(kOwner, Resolution::kZero), absl::OkStatus());
  }
  toucher.join();
  sigaction(SIGBUS, &old, nullptr);
  EXPECT_EQ(killed, status.ok()) << status;
}

TEST_P(PagerFailure, Recall_SaysWhatItCouldNotRead_AndBringsTheRest) {
  StartShort();
  Damage(10);
  const absl::Status status = pager_->Recall(kOwner, Prefetch::kAll);
  EXPECT_EQ(status.code(), absl::StatusCode::kDeadlineExceeded) << status;
  EXPECT_THAT(std::string(status.message()),
              HasSubstr("recall of function 7: what is still out comes when it is touched"));
  EXPECT_EQ(pager_->owner_stats(kOwner).offloaded_bytes, kPage);
  EXPECT_EQ(pager_->Populate(Range(10)).code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_EQ(Lost(), 0u);  // Nobody has touched it.
  Repair(10);
  EXPECT_TRUE(pager_->Recall(kOwner, Prefetch::kAll).ok());
  ExpectWhole(0, 64);
}

TEST_P(PagerFailure, Offload_PutsEverythingBack_WhenTheHostKeepsThePages) {
  Start(64);
  FillRam();
  if (GetParam() == Kind::kMemfd) {
    ASSERT_EQ(fcntl(ram_fd_.get(), F_ADD_SEALS, F_SEAL_FUTURE_WRITE), 0);
  } else {
    ASSERT_EQ(syscall(SYS_mlock, Page(32), kPage), 0);  // Sanitizers make mlock() do nothing.
  }
  const auto result = pager_->Offload(kOwner, Straight(0, 64));
  ASSERT_FALSE(result.ok());
  EXPECT_THAT(std::string(result.status().message()),
              HasSubstr("nothing is offloaded: give back guest-physical"));
  AwaitPool(0);
  ExpectWhole(0, 64);
  FillRam();
}

}  // namespace
}  // namespace moult::host::testing
