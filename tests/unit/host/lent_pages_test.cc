// SPDX-License-Identifier: Apache-2.0
//
// Pages in lent memory, with a memory node that is a vector: what goes over the network is tests/vm/rdma_test.py's.
#include "pool/rdma/lent_pages.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <cstring>
#include <map>
#include <thread>

#include "memory/guest_memory.h"
#include "pager_fixture.h"

namespace moult::host {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using rdma::Clock;
using rdma::Lent;

constexpr uint64_t kLentPages = 64;

// What a node knows, and what becomes of calls. A call that comes after its deadline is a mistake of the caller.
struct LendingNode {
  std::mutex mutex;
  std::map<rdma::Token, std::vector<std::byte>> loans;
  uint8_t made = 0;
  absl::Status fault;                      // of the next calls
  absl::Status borrow_fault;
  size_t write_only = SIZE_MAX;            // bytes of a call that still get through before its fault
  std::vector<size_t> pieces;              // of each read
  Clock::duration longest_read{}, longest_borrow{};  // that a caller would have waited

  void Restart() { loans.clear(); }
  std::vector<std::byte>& Only() { return loans.begin()->second; }
};

class FakeLender final : public rdma::Lender {
 public:
  explicit FakeLender(LendingNode* node) : node_(node) {}

  absl::StatusOr<Lent> Borrow(uint64_t bytes, Clock::time_point deadline) override {
    const std::lock_guard<std::mutex> lock(node_->mutex);
    node_->longest_borrow = std::max(node_->longest_borrow, deadline - Clock::now());
    if (!node_->borrow_fault.ok()) return node_->borrow_fault;
    const rdma::Token token{++node_->made};
    node_->loans[token].resize(bytes);
    return Lent{token, 0, node_->made, bytes};
  }
  absl::Status Read(const Lent& loan, absl::Span<const PoolPiece> pieces, Clock::time_point deadline) override {
    const std::lock_guard<std::mutex> lock(node_->mutex);
    node_->longest_read = std::max(node_->longest_read, deadline - Clock::now());
    node_->pieces.push_back(pieces.size());
    return Move(loan, pieces, [](std::byte* there, const PoolPiece& piece) {
      std::memcpy(piece.to.data(), there, piece.to.size());
    });
  }
  absl::Status Write(const Lent& loan, absl::Span<const PoolPiece> pieces, Clock::time_point) override {
    const std::lock_guard<std::mutex> lock(node_->mutex);
    return Move(loan, pieces, [this](std::byte* there, const PoolPiece& piece) {
      std::memcpy(there, piece.to.data(), std::min(piece.to.size(), node_->write_only));
    });
  }
  void GiveBack(const Lent& loan, Clock::time_point) override {
    const std::lock_guard<std::mutex> lock(node_->mutex);
    node_->loans.erase(loan.token);
  }

 private:
  template <typename Each>
  absl::Status Move(const Lent& loan, absl::Span<const PoolPiece> pieces, Each each) {
    const auto found = node_->loans.find(loan.token);
    if (found == node_->loans.end()) return absl::NotFoundError("there is no such loan");
    for (const PoolPiece& piece : pieces) {
      if (!node_->fault.ok() && node_->write_only == SIZE_MAX) break;
      EXPECT_LE(piece.offset + piece.to.size(), found->second.size());
      each(found->second.data() + piece.offset, piece);
    }
    return node_->fault;
  }
  LendingNode* const node_;
};

class LentPagesTest : public ::testing::Test {
 protected:
  void SetUp() override { Make({}); }
  void Make(const LentPages::Options& options, uint64_t bytes = kLentPages * kPage) {
    pool_ = std::make_unique<LentPages>("rdma://node/", bytes, std::make_unique<FakeLender>(&node_), options);
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
  absl::Status TryWrite(size_t count) {
    std::vector<PoolSlot> slots(count);
    return pool_->Write(Pages(count, 9), absl::MakeSpan(slots));
  }
  absl::Status TryRead(absl::Span<const PoolSlot> slots) {
    std::vector<std::byte> read(slots.size() * kPage);
    return pool_->Read(slots, absl::MakeSpan(read));
  }
  void ExpectContent(absl::Span<const PoolSlot> slots, const std::vector<std::byte>& content) {
    std::vector<std::byte> read(slots.size() * kPage);
    const absl::Status status = pool_->Read(slots, absl::MakeSpan(read));
    ASSERT_TRUE(status.ok()) << status;
    EXPECT_EQ(read, content);
  }
  LendingNode node_;
  std::unique_ptr<LentPages> pool_;
};

TEST_F(LentPagesTest, Read_GivesWhatWasWritten_NeighboursAtOnce) {
  EXPECT_TRUE(node_.loans.empty());  // Nobody is asked before there is something to keep.
  const auto slots = Write(10, 1);
  EXPECT_EQ(node_.loans.size(), 1u);
  EXPECT_EQ(node_.Only().size(), kLentPages * kPage);
  ExpectContent(slots, Pages(10, 1));
  const auto all = Pages(10, 1);
  std::vector<std::byte> wanted;
  for (const size_t i : {7u, 8u, 2u})
    wanted.insert(wanted.end(), all.begin() + static_cast<long>(i * kPage), all.begin() + static_cast<long>((i + 1) * kPage));
  ExpectContent(std::vector<PoolSlot>{slots[7], slots[8], slots[2]}, wanted);
  EXPECT_THAT(node_.pieces, ::testing::ElementsAre(1, 2));
}

TEST_F(LentPagesTest, Room_IsCounted_AndUsedAgain) {
  EXPECT_EQ(pool_->limit_bytes(), kLentPages * kPage);
  const auto slots = Write(kLentPages, 1);
  EXPECT_EQ(pool_->used_bytes(), kLentPages * kPage);
  const absl::Status full = TryWrite(1);
  EXPECT_TRUE(absl::IsResourceExhausted(full)) << full;
  EXPECT_THAT(std::string(full.message()), AllOf(HasSubstr("pool rdma://node/ is full"), HasSubstr("raise its limit")));
  for (const size_t i : {3u, 9u, 10u}) pool_->Free({&slots[i], 1});
  EXPECT_EQ(pool_->used_bytes(), (kLentPages - 3) * kPage);
  ExpectContent(Write(3, 2), Pages(3, 2));
  const auto first = Pages(kLentPages, 1);
  ExpectContent({&slots[4], 1}, {first.begin() + 4 * kPage, first.begin() + 5 * kPage});
  EXPECT_EQ(node_.made, 1);
  pool_.reset();
  EXPECT_TRUE(node_.loans.empty());  // With the VM its memory goes back.
}

TEST_F(LentPagesTest, Read_FindsAFlippedBit) {
  const auto slots = Write(3, 1);
  node_.Only()[2 * kPage - 1] ^= std::byte{1};
  const absl::Status status = TryRead(slots);
  EXPECT_TRUE(absl::IsDataLoss(status)) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("pool rdma://node/: slot 1 does not match its checksum"));
  EXPECT_TRUE(TryRead({&slots[2], 1}).ok());
  node_.Only()[2 * kPage - 1] ^= std::byte{1};
  ExpectContent(slots, Pages(3, 1));
}

TEST_F(LentPagesTest, Errors_OfTheNode_ArePassedOn_AndPass) {
  const auto slots = Write(3, 1);
  node_.fault = absl::UnavailableError("memory node: nobody listens there");
  const absl::Status read = TryRead(slots);
  EXPECT_TRUE(absl::IsUnavailable(read)) << read;
  EXPECT_THAT(std::string(read.message()), HasSubstr("pool rdma://node/: memory node: nobody"));
  EXPECT_TRUE(absl::IsUnavailable(TryWrite(1)));
  EXPECT_LE(node_.longest_read, LentPages::Options{}.timeout);
  EXPECT_GT(node_.longest_read, LentPages::Options{}.timeout / 2);
  node_.fault = absl::OkStatus();
  ExpectContent(slots, Pages(3, 1));
}

TEST_F(LentPagesTest, SlotsOfAFailedWrite_AreNotUsed_WhileItMayStillArrive) {
  auto quarantine = std::chrono::milliseconds(200);
  for (;; quarantine *= 4) {
    Make({.quarantine = quarantine});
    Write(1, 1);
    node_.fault = absl::DeadlineExceededError("no answer in time");
    node_.write_only = 100;
    const auto begin = Clock::now();
    EXPECT_TRUE(absl::IsDeadlineExceeded(TryWrite(kLentPages - 1)));
    node_.fault = absl::OkStatus();
    node_.write_only = SIZE_MAX;
    const absl::Status meanwhile = TryWrite(1);
    if (absl::IsResourceExhausted(meanwhile)) break;
    // Only where this thread had to wait for a CPU until the quarantine was over.
    ASSERT_GE(Clock::now() - begin, quarantine) << meanwhile;
  }
  EXPECT_EQ(pool_->used_bytes(), kLentPages * kPage);
  std::this_thread::sleep_for(quarantine);
  ExpectContent(Write(kLentPages - 1, 2), Pages(kLentPages - 1, 2));
}

TEST_F(LentPagesTest, PagesOfAForgottenLoan_AreLost_AndNeverReadAsOthers) {
  const auto old = Write(4, 1);
  node_.Restart();
  const auto expect_lost = [&] {
    const absl::Status status = TryRead(old);
    EXPECT_TRUE(absl::IsDataLoss(status)) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr("what was written is lost: there is no such loan"));
  };
  expect_lost();
  expect_lost();
  EXPECT_EQ(node_.made, 1);  // To read brings nothing back, so no loan is made for it.
  const auto fresh = Write(4, 2);
  EXPECT_EQ(node_.made, 2);
  ExpectContent(fresh, Pages(4, 2));
  expect_lost();  // Also now that there is a loan in which its slots are zeros.
  EXPECT_EQ(pool_->used_bytes(), 8 * kPage);
  pool_->Free(old);
  ExpectContent(Write(4, 3), Pages(4, 3));
  ExpectContent(fresh, Pages(4, 2));
}

TEST_F(LentPagesTest, Write_MakesANewLoan_WhenItFindsTheOldOneForgotten) {
  const auto old = Write(4, 1);
  node_.Restart();
  const auto fresh = Write(4, 2);
  ExpectContent(fresh, Pages(4, 2));
  EXPECT_TRUE(absl::IsDataLoss(TryRead(old)));
  EXPECT_TRUE(absl::IsDataLoss(TryRead(std::vector<PoolSlot>{fresh[0], old[0]})));
}

TEST_F(LentPagesTest, Write_SaysWhatTheNodeSays_WhenItLendsNothing) {
  node_.borrow_fault = absl::FailedPreconditionError("lends no memory");
  EXPECT_TRUE(absl::IsFailedPrecondition(TryWrite(1)));
  EXPECT_LE(node_.longest_borrow, LentPages::Options{}.borrow_timeout);
  EXPECT_GT(node_.longest_borrow, LentPages::Options{}.borrow_timeout / 2);
}

TEST_F(LentPagesTest, Write_WaitsLonger_ForALargerLoan) {
  node_.borrow_fault = absl::FailedPreconditionError("lends no memory");
  Make({}, uint64_t{100} << 30);
  EXPECT_TRUE(absl::IsFailedPrecondition(TryWrite(1)));
  EXPECT_GT(node_.longest_borrow, LentPages::Options{}.borrow_timeout + std::chrono::seconds(90));
}

TEST_F(LentPagesTest, Threads_ShareOneLoan_AlsoWhenItIsForgottenUnderThem) {
  std::atomic<int> wrong = 0;
  std::atomic<uint64_t> forgotten = 0;
  const auto work = [&](int salt) {
    for (int round = 0; round < 200; ++round) {
      std::vector<PoolSlot> slots(4);
      const auto pages = Pages(4, salt * 1000 + round);
      const absl::Status written = pool_->Write(pages, absl::MakeSpan(slots));
      if (!written.ok()) {
        // A thread that had to wait for a CPU may meet two restarts in one write; its slots are kept for a while.
        if (absl::IsNotFound(written)) {
          ++forgotten;
        } else {
          ++wrong;
        }
        continue;
      }
      std::vector<std::byte> read(pages.size());
      const absl::Status status = pool_->Read(slots, absl::MakeSpan(read));
      if (status.ok() ? read != pages : !absl::IsDataLoss(status)) ++wrong;
      pool_->Free(slots);
    }
  };
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) threads.emplace_back(work, i);
  constexpr uint64_t kRestarts = 4;
  for (uint64_t i = 0; i < kRestarts; ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
    const std::lock_guard<std::mutex> lock(node_.mutex);
    node_.Restart();
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(wrong, 0);
  EXPECT_LE(forgotten, threads.size() * kRestarts / 2);
  EXPECT_EQ(pool_->used_bytes(), forgotten * 4 * kPage);
  EXPECT_LE(node_.loans.size(), 1u);
}

class LentPager : public testing::PagerTest {
 protected:
  std::shared_ptr<PagePool> PoolOf(std::shared_ptr<PageFile>) override {
    return lent_ = std::make_shared<LentPages>("rdma://node/", kPoolBytes, std::make_unique<FakeLender>(&node_), LentPages::Options{});
  }
  LendingNode node_;
  std::shared_ptr<LentPages> lent_;
};
INSTANTIATE_TEST_SUITE_P(Kinds, LentPager, ::testing::Values(testing::Kind::kMemfd, testing::Kind::kAnonymous), testing::KindName);

TEST_P(LentPager, Pages_ComeBackFromThere) {
  Start(256);
  FillRam();
  Offload(Scattered(0, 256));
  EXPECT_GT(lent_->used_bytes(), 0u);
  EXPECT_LT(HostBytes(), 256 * kPage);
  ExpectWhole(0, 8);
  ASSERT_TRUE(pager_->Recall(testing::kOwner, Prefetch::kAll).ok());
  ExpectWhole(0, 256);
  EXPECT_EQ(lent_->used_bytes(), 0u);
}

TEST_P(LentPager, PagesOfAForgottenLoan_AreLostWithTheReason_AndTheFunctionCanGoOut_Again) {
  PagerConfig config;
  config.read_deadline = std::chrono::milliseconds(60);
  Start(64, 2, kPoolBytes, config);
  FillRam();
  Offload(Straight(0, 64));
  {
    const std::lock_guard<std::mutex> lock(node_.mutex);
    node_.Restart();
  }
  std::thread toucher([&] { EXPECT_EQ(Word(10), 0u); });
  while (Lost() == 0) std::this_thread::yield();
  EXPECT_TRUE(absl::IsDataLoss(lost_[0].why)) << lost_[0].why;
  EXPECT_THAT(std::string(lost_[0].why.message()), AllOf(HasSubstr("is lost"), HasSubstr("there is no such loan")));
  ASSERT_TRUE(pager_->Resolve(testing::kOwner, Resolution::kZero).ok());
  toucher.join();
  DropAll();
  EXPECT_EQ(lent_->used_bytes(), 0u);
  FillRam();
  Offload(Straight(0, 64));
  ExpectWhole(0, 64);
}

TEST(OpenPagePool, SaysWhatIsMissing) {
  const auto refused = [](const char* uri, uint64_t limit, const char* why) {
    const auto pool = OpenPagePool(uri, {}, limit);
    EXPECT_TRUE(absl::IsInvalidArgument(pool.status())) << pool.status();
    EXPECT_THAT(std::string(pool.status().message()), AllOf(HasSubstr(uri), HasSubstr(why)));
  };
  refused("rdma://a/", 0, "say how much");
  refused("rdma://a/", 100, "say how much");
  refused("rdma://a/", UINT64_MAX, "say how much");
  refused("rdma://a,b/", 1 << 20, "name one");
  refused("rdma://a/", 1 << 20, "asks for the tenant's key");
  refused("dax:/dev/dax0.0", 1 << 20, "give file:FOLDER or rdma://HOST");
}

}  // namespace
}  // namespace moult::host
