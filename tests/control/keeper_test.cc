// SPDX-License-Identifier: Apache-2.0
#include "control/keeper.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <thread>

#include "fake_moult.h"

namespace moult::control {
namespace {

using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::Not;

constexpr uint64_t kMiB = 1 << 20;

// Without a server: requests are told, and time goes on when the test turns.
class KeeperTest : public ::testing::Test {
 protected:
  void SetUp() override {
    fake::Reset();
    moult_vm_options options = MOULT_INIT(options);
    ASSERT_EQ(moult_vm_create(&options, &vm_), 0);
    keeper_ = std::make_unique<Keeper>(
        vm_, Keeper::Hooks{[this](int, const std::string& message) { messages_.push_back(message); }, moult_op_free});
  }
  void TearDown() override {
    keeper_.reset();
    EXPECT_EQ(fake::LiveOps(), 0);
    moult_vm_close(vm_);
  }

  // As the server's loop does.
  void Turn(int times = 20) {
    for (int i = 0; i < times; ++i) {
      ASSERT_GE(moult_vm_process(vm_), 0);
      keeper_->Tick();
    }
  }
  // There are times between tries: to the end of each.
  void TurnUntil(const std::function<bool()>& done) {
    const auto deadline = Keeper::Clock::now() + std::chrono::seconds(60);
    for (Turn(); !done() && Keeper::Clock::now() < deadline; Turn()) std::this_thread::sleep_until(std::min(keeper_->next(), deadline));
    EXPECT_TRUE(done());
  }
  void TurnUntil(const std::string& entry) {
    TurnUntil([&] { return std::ranges::count(fake::Log(), entry) > 0; });
  }
  static std::vector<std::string> Ends() {
    std::vector<std::string> ends;
    for (const std::string& entry : fake::Log()) {
      if (entry.starts_with("end ")) ends.push_back(entry);
    }
    return ends;
  }
  // Unknown until it is told.
  static Keeper::Left Into(absl::Status* status) {
    *status = absl::UnknownError("not told");
    return [status](const absl::Status& told) { *status = told; };
  }
  Json Only() const { return keeper_->Describe().at(0); }

  // Freezes, moves exec and then init; with a request recalls the working set.
  static void FreezeAndMove(const moult_function_view& view, moult_policy_decision* decision) {
    decision->recall = MOULT_RECALL_WORKING_SET;
    if (view.state == MOULT_FUNCTION_REQUESTED) return;
    decision->freeze = 1;
    decision->offload[MOULT_SEGMENT_EXEC] = view.resident[MOULT_SEGMENT_EXEC];
    decision->offload[MOULT_SEGMENT_INIT] = view.resident[MOULT_SEGMENT_INIT];
  }

  moult_vm* vm_ = nullptr;
  std::unique_ptr<Keeper> keeper_;
  std::vector<std::string> messages_;
};

TEST_F(KeeperTest, Idle_IsFrozenMeasuredAndMoved) {
  fake::SetPolicy(FreezeAndMove);
  fake::SetSegments({8 * kMiB, 4 * kMiB, kMiB + 100});
  ASSERT_TRUE(keeper_->Set(7, "scripted").ok());
  Turn();
  EXPECT_THAT(fake::Log(), ElementsAre("list 0", "end list OK", "freeze 7", "end freeze OK", "pages 7 flags=0", "end pages OK",
                                       "offload 7 flags=0 segments=4 most=1048576", "end offload OK",
                                       "offload 7 flags=0 segments=2 most=4194304", "end offload OK"));
  EXPECT_EQ(Only()["state"], "frozen");
  EXPECT_EQ(Only()["segments"]["init"]["offloaded_bytes"], 4 * kMiB);
  EXPECT_EQ(Only()["segments"]["runtime"]["resident_bytes"], 8 * kMiB);
  EXPECT_LE(Only()["next_ms"], 300'000) << "it is looked at now and then";
}

TEST_F(KeeperTest, Request_RecallsWhatIsOut) {
  fake::SetPolicy(FreezeAndMove);
  fake::SetSegments({0, 4 * kMiB, 0});
  ASSERT_TRUE(keeper_->Set(7, "scripted").ok());
  Turn();
  keeper_->Begin(7);
  Turn();
  EXPECT_THAT(fake::Log(), Contains("recall 7 prefetch=0"));
  EXPECT_EQ(Only()["state"], "running");
  const size_t before = fake::Log().size();
  keeper_->Begin(7);  // a second beside it
  keeper_->End(7);
  Turn();
  EXPECT_EQ(fake::Log().size(), before) << "one of two requests has ended, and it was touched";
  keeper_->End(7);
  Turn();
  EXPECT_EQ(fake::Log().at(before), "freeze 7");
  EXPECT_EQ(Only()["state"], "frozen");
}

TEST_F(KeeperTest, Request_ThatBeganBeforeThePolicy_KeepsItRunning) {
  fake::SetPolicy(FreezeAndMove);
  keeper_->Begin(7);
  ASSERT_TRUE(keeper_->Set(7, "scripted").ok());
  Turn();
  EXPECT_THAT(fake::Log(), Not(Contains("freeze 7")));
  EXPECT_EQ(Only()["requests"], 1);
  keeper_->Begin(7);
  keeper_->End(7);  // the first, or the second
  Turn();
  EXPECT_THAT(fake::Log(), Not(Contains("freeze 7"))) << "one is under way";
  keeper_->End(7);
  Turn();
  EXPECT_THAT(fake::Log(), Contains("freeze 7"));
}

TEST_F(KeeperTest, Request_WithNothingOutThaws) {
  fake::SetPolicy(FreezeAndMove);
  ASSERT_TRUE(keeper_->Set(7, "scripted").ok());
  Turn();
  keeper_->Begin(7);
  Turn();
  EXPECT_THAT(fake::Log(), Contains("thaw 7"));
  EXPECT_THAT(fake::Log(), Not(Contains("recall 7 prefetch=0")));
}

TEST_F(KeeperTest, Request_CancelsWhatIsUnderWay) {
  fake::SetPolicy(FreezeAndMove);
  ASSERT_TRUE(keeper_->Set(fake::kHeld, "scripted").ok());
  Turn();
  EXPECT_THAT(fake::Log(), ElementsAre("list 0", "end list OK", "freeze 1000"));
  keeper_->Begin(fake::kHeld);
  Turn(3);
  // Whether it was frozen nobody knows.
  EXPECT_THAT(fake::Log(), ElementsAre("list 0", "end list OK", "freeze 1000", "cancel freeze", "end freeze CANCELLED", "thaw 1000"));
  fake::Release();
  Turn();
  EXPECT_EQ(Only()["state"], "running");
  EXPECT_FALSE(Only().contains("error"));
}

TEST_F(KeeperTest, Asks_WhenItWasToldTo) {
  int asked = 0;
  uint64_t wait_us = 100'000'000;
  fake::SetPolicy([&](const moult_function_view& view, moult_policy_decision* decision) {
    ++asked;
    EXPECT_EQ(view.state, uint32_t{MOULT_FUNCTION_IDLE});
    EXPECT_GE(view.pressure, 0);
    EXPECT_LE(view.pressure, 1);
    decision->wake_after_us = wait_us;
  });
  ASSERT_TRUE(keeper_->Set(7, "scripted").ok());
  Turn();
  EXPECT_EQ(asked, 1);
  const auto wait = keeper_->next() - Keeper::Clock::now();
  EXPECT_LE(wait, std::chrono::seconds(100));
  EXPECT_GT(wait, std::chrono::seconds(50));
  wait_us = 20'000;
  keeper_->Begin(7);
  keeper_->End(7);
  const auto begin = Keeper::Clock::now();
  while (asked < 4 && Keeper::Clock::now() < begin + std::chrono::seconds(10)) {
    std::this_thread::sleep_until(keeper_->next());
    Turn(1);
  }
  EXPECT_EQ(asked, 4);
  EXPECT_GE(Keeper::Clock::now() - begin, std::chrono::milliseconds(40));
}

TEST_F(KeeperTest, End_LooksBeforeItEnds) {
  fake::SetPolicy([](const moult_function_view& view, moult_policy_decision* decision) {
    decision->end = view.resident[MOULT_SEGMENT_RUNTIME] == 0 ? 1 : 0;
  });
  fake::SetSegments({kMiB, 0, 0});
  ASSERT_TRUE(keeper_->Set(7, "scripted").ok());
  Turn();
  EXPECT_THAT(fake::Log(), ElementsAre("list 0", "end list OK", "pages 7 flags=0", "end pages OK")) << "it has pages, and was to live on";
  fake::SetSegments({0, 0, 0});
  ASSERT_TRUE(keeper_->Set(9, "scripted").ok());
  Turn();
  EXPECT_THAT(fake::Log(), Contains("kill 9"));
  EXPECT_EQ(keeper_->Describe().size(), 1u);
}

TEST_F(KeeperTest, Offload_ThatMovesLessIsNotTriedForEver) {
  fake::SetPolicy(FreezeAndMove);
  fake::SetSegments({0, 64 * kMiB, 0});
  fake::LimitOffload(kMiB);
  ASSERT_TRUE(keeper_->Set(7, "scripted").ok());
  Turn();
  EXPECT_EQ(Only()["segments"]["init"]["resident_bytes"], 0);
  EXPECT_EQ(Only()["segments"]["init"]["offloaded_bytes"], kMiB);
}

TEST_F(KeeperTest, Policy_ThatWantsToBeAskedAtOnceIsNotAskedAllTheTime) {
  int asked = 0;
  fake::SetPolicy([&](const moult_function_view&, moult_policy_decision* decision) {
    ++asked;
    decision->wake_after_us = 0;
  });
  ASSERT_TRUE(keeper_->Set(7, "scripted").ok());
  const auto begin = Keeper::Clock::now();
  Turn(1000);
  EXPECT_LE(asked, (Keeper::Clock::now() - begin) / std::chrono::milliseconds(10) + 2);
}

TEST_F(KeeperTest, Failure_IsToldAndTriedLater) {
  fake::SetPolicy(FreezeAndMove);
  fake::SetSegments({0, kMiB, 0});
  fake::FailNext("offload", MOULT_FAILED_PRECONDITION);
  ASSERT_TRUE(keeper_->Set(7, "scripted").ok());
  Turn();
  EXPECT_EQ(Only()["error"]["name"], "FAILED_PRECONDITION");
  EXPECT_EQ(messages_.size(), 1u);
  EXPECT_GT(Only()["next_ms"], 50'000);
  // A request is served all the same.
  keeper_->Begin(7);
  Turn();
  EXPECT_THAT(fake::Log(), Contains("thaw 7"));
  EXPECT_EQ(Only()["state"], "running");
}

TEST_F(KeeperTest, Recall_ThatFailsLetsItRun) {
  fake::SetPolicy(FreezeAndMove);
  fake::SetSegments({0, kMiB, 0});
  ASSERT_TRUE(keeper_->Set(7, "scripted").ok());
  Turn();
  fake::FailNext("recall", MOULT_FAILED_PRECONDITION);
  keeper_->Begin(7);
  TurnUntil("end thaw OK");
  EXPECT_THAT(Ends(), Contains("end recall FAILED_PRECONDITION"));
  EXPECT_EQ(Only()["error"]["name"], "FAILED_PRECONDITION");
}

TEST_F(KeeperTest, Thaw_ThatFailsIsTriedForAsLongAsARequestWaits) {
  fake::SetPolicy(FreezeAndMove);
  ASSERT_TRUE(keeper_->Set(7, "scripted").ok());
  Turn();
  fake::FailNext("thaw", MOULT_FAILED_PRECONDITION, 3);
  keeper_->Begin(7);
  TurnUntil("end thaw OK");
  EXPECT_EQ(std::ranges::count(Ends(), "end thaw FAILED_PRECONDITION"), 3);
  EXPECT_EQ(messages_.size(), 1u) << "the same thing, said again";
  EXPECT_EQ(Only()["state"], "running");
}

TEST_F(KeeperTest, FunctionThatHasEnded_IsForgotten) {
  fake::SetPolicy(FreezeAndMove);
  fake::FailNext("freeze", MOULT_FAILED_PRECONDITION);
  ASSERT_TRUE(keeper_->Set(8, "scripted").ok());
  Turn();
  EXPECT_THAT(keeper_->Describe(), IsEmpty());
}

TEST_F(KeeperTest, Off_LetsItRunAndForgetsIt) {
  fake::SetPolicy(FreezeAndMove);
  ASSERT_TRUE(keeper_->Set(7, "scripted").ok());
  Turn();
  absl::Status left, both;
  keeper_->Leave(7, Into(&left));
  keeper_->Leave(7, Into(&both));
  EXPECT_EQ(Only()["state"], "leaving");
  EXPECT_TRUE(absl::IsUnknown(left)) << "it stands still yet: " << left;
  Turn();
  EXPECT_THAT(keeper_->Describe(), IsEmpty());
  EXPECT_TRUE(left.ok()) << left;
  EXPECT_TRUE(both.ok()) << both;
  EXPECT_EQ(Ends().back(), "end thaw OK");
  keeper_->Leave(7, Into(&left));
  EXPECT_TRUE(absl::IsNotFound(left)) << left;
  keeper_->Begin(7);
  keeper_->End(7);
  Turn();
  EXPECT_EQ(Ends().back(), "end thaw OK");
}

TEST_F(KeeperTest, Off_GivesUpOnOneThatCannotBeLetRun) {
  fake::SetPolicy(FreezeAndMove);
  ASSERT_TRUE(keeper_->Set(7, "scripted").ok());
  Turn();
  fake::FailNext("thaw", MOULT_FAILED_PRECONDITION, 1000);
  absl::Status left;
  keeper_->Leave(7, Into(&left));
  TurnUntil([&] { return keeper_->Describe().empty(); });
  EXPECT_TRUE(absl::IsFailedPrecondition(left)) << left;
  EXPECT_THAT(std::string(left.message()), ::testing::HasSubstr("function 7 could not be let run, and is left as it is: thaw"));
  EXPECT_EQ(messages_.front(), "policy scripted: function 7: thaw: FAILED_PRECONDITION");
  EXPECT_THAT(messages_.back(), ::testing::HasSubstr("is left as it is"));
}

TEST_F(KeeperTest, Off_IsOverWhenAnotherPolicyComes) {
  fake::SetPolicy(FreezeAndMove);
  ASSERT_TRUE(keeper_->Set(fake::kHeld, "scripted").ok());
  Turn();
  absl::Status left;
  keeper_->Leave(fake::kHeld, Into(&left));
  ASSERT_TRUE(keeper_->Set(fake::kHeld, "scripted").ok());
  EXPECT_TRUE(absl::IsAborted(left)) << left;
  fake::Release();
  Turn();
  EXPECT_EQ(Only()["state"], "frozen");
}

TEST_F(KeeperTest, Off_IsDoneWhenTheFunctionIsNoMore) {
  fake::SetPolicy(FreezeAndMove);
  ASSERT_TRUE(keeper_->Set(fake::kHeld, "scripted").ok());
  Turn();
  absl::Status left;
  keeper_->Leave(fake::kHeld, Into(&left));
  keeper_->Clear();
  Turn();
  EXPECT_TRUE(left.ok()) << left;
}

TEST_F(KeeperTest, Held_IsLeftAlone) {
  fake::SetPolicy(FreezeAndMove);
  fake::SetSegments({0, 4 * kMiB, kMiB});
  ASSERT_TRUE(keeper_->Set(7, "scripted").ok());
  Turn(3);
  EXPECT_THAT(fake::Log(), Contains("freeze 7"));
  keeper_->Hold(7);
  keeper_->Hold(7);
  Turn();
  const size_t before = fake::Log().size();
  EXPECT_FALSE(keeper_->Busy(7)) << "what was begun is over";
  EXPECT_EQ(Only()["held"], true);
  EXPECT_EQ(keeper_->next(), Keeper::Clock::time_point::max());
  keeper_->Begin(7);
  keeper_->End(7);
  ASSERT_TRUE(keeper_->Set(7, "scripted").ok());
  keeper_->Release(7);
  Turn();
  EXPECT_EQ(fake::Log().size(), before) << "one of two who hold it has let go";
  keeper_->Release(7);
  Turn();
  // It is seen anew: in the list it runs.
  const std::vector<std::string> log = fake::Log();
  EXPECT_THAT(std::vector<std::string>(log.begin() + static_cast<ptrdiff_t>(before), log.begin() + static_cast<ptrdiff_t>(before) + 3),
              ElementsAre("list 0", "end list OK", "freeze 7"));
  EXPECT_EQ(Only()["state"], "frozen");
  EXPECT_FALSE(Only().contains("held"));
}

TEST_F(KeeperTest, Held_MovesNoFurtherSegment) {
  fake::SetPolicy(FreezeAndMove);
  fake::SetSegments({0, 4 * kMiB, kMiB});
  ASSERT_TRUE(keeper_->Set(7, "scripted").ok());
  for (int i = 0; i < 20 && std::ranges::count(fake::Log(), "offload 7 flags=0 segments=4 most=1048576") == 0; ++i) Turn(1);
  keeper_->Hold(7);
  Turn();
  EXPECT_EQ(fake::Log().back(), "end offload OK");
  EXPECT_THAT(fake::Log(), Not(Contains("offload 7 flags=0 segments=2 most=4194304")));
}

TEST_F(KeeperTest, Interrupt_EndsWhatIsUnderWay_AndTheRequestIsServedAfterwards) {
  fake::SetPolicy(FreezeAndMove);
  ASSERT_TRUE(keeper_->Set(fake::kHeld, "scripted").ok());
  Turn();
  keeper_->Hold(fake::kHeld);
  EXPECT_TRUE(keeper_->Busy(fake::kHeld));
  keeper_->Interrupt(fake::kHeld);
  Turn();
  EXPECT_FALSE(keeper_->Busy(fake::kHeld));
  EXPECT_EQ(fake::Log().back(), "end freeze CANCELLED");
  keeper_->Begin(fake::kHeld);
  Turn();
  EXPECT_EQ(fake::Log().back(), "end freeze CANCELLED");
  keeper_->Release(fake::kHeld);
  Turn();
  EXPECT_EQ(fake::Log().back(), "end list OK") << "it runs";
  EXPECT_EQ(Only()["state"], "running");
}

TEST_F(KeeperTest, Counts_WhatWasCarriedOut) {
  fake::SetPolicy(FreezeAndMove);
  fake::SetSegments({0, 4 * kMiB, kMiB});
  ASSERT_TRUE(keeper_->Set(7, "scripted").ok());
  Turn();
  keeper_->Begin(7);
  Turn();
  fake::FailNext("freeze", MOULT_FAILED_PRECONDITION);
  keeper_->End(7);
  Turn();
  const Json done{{"freezes", 1}, {"offloads", 2}, {"offloaded_bytes", 5 * kMiB}, {"recalls", 1}, {"thaws", 0}, {"ends", 0}, {"failures", 1}};
  EXPECT_EQ(Only()["done"], done);
  fake::SetPolicy([](const moult_function_view&, moult_policy_decision* decision) { decision->end = 1; });
  ASSERT_TRUE(keeper_->Set(9, "scripted").ok());
  Turn();
  EXPECT_EQ(keeper_->Describe().size(), 1u);
  Json all = done;
  all["ends"] = 1;
  EXPECT_EQ(keeper_->Totals(), all) << "those that are gone among them";
}

// Its own are others afterwards, with the same numbers.
TEST_F(KeeperTest, Guest_ThatBeginsAnewHasNoPolicies) {
  fake::SetPolicy(FreezeAndMove);
  ASSERT_TRUE(keeper_->Set(7, "scripted").ok());
  Turn();
  ASSERT_TRUE(keeper_->Set(fake::kHeld, "scripted").ok());
  Turn();  // which is being frozen
  const size_t before = fake::Log().size();
  keeper_->Clear();
  Turn();
  EXPECT_THAT(keeper_->Describe(), IsEmpty());
  const std::vector<std::string> log = fake::Log();
  EXPECT_THAT(std::vector<std::string>(log.begin() + static_cast<ptrdiff_t>(before), log.end()),
              ElementsAre("cancel freeze", "end freeze CANCELLED"));
}

TEST_F(KeeperTest, Policy_ForANewGuestsFunctionStays_WhileAStepOfTheOldOneEnds) {
  fake::SetPolicy(FreezeAndMove);
  ASSERT_TRUE(keeper_->Set(fake::kHeld, "scripted").ok());
  Turn();  // it is being frozen
  keeper_->Clear();
  ASSERT_TRUE(keeper_->Set(fake::kHeld, "scripted").ok());
  Turn();
  ASSERT_EQ(keeper_->Describe().size(), 1u);
  EXPECT_EQ(std::ranges::count(fake::Log(), "freeze " + std::to_string(fake::kHeld)), 2);
  keeper_->Clear();
  Turn();
}

// Only what was cancelled here is tried again at once: the word is the guest's otherwise.
TEST_F(KeeperTest, Cancelled_SaidByTheGuestIsAFailure) {
  fake::SetPolicy(FreezeAndMove);
  ASSERT_TRUE(keeper_->Set(7, "scripted").ok());
  Turn();
  fake::FailNext("thaw", MOULT_CANCELLED, 1000);
  keeper_->Begin(7);
  const auto begin = Keeper::Clock::now();
  Turn(1000);
  EXPECT_LE(std::ranges::count(Ends(), "end thaw CANCELLED"), (Keeper::Clock::now() - begin) / std::chrono::milliseconds(50) + 2);
  EXPECT_EQ(Only()["state"], "frozen");
}

TEST_F(KeeperTest, UnknownFunctionOrPolicy_IsForgottenOrRefused) {
  EXPECT_TRUE(absl::IsInvalidArgument(keeper_->Set(7, "no-such")));
  EXPECT_THAT(keeper_->Describe(), IsEmpty());
  fake::SetPolicy(FreezeAndMove);
  ASSERT_TRUE(keeper_->Set(fake::kUnknown, "scripted").ok());
  Turn();
  EXPECT_THAT(keeper_->Describe(), IsEmpty());
  EXPECT_EQ(messages_.size(), 1u);
}

TEST_F(KeeperTest, NewPolicy_TakesThePlaceOfTheOld) {
  fake::SetPolicy(FreezeAndMove);
  ASSERT_TRUE(keeper_->Set(7, "scripted").ok());
  Turn();
  fake::SetPolicy([](const moult_function_view&, moult_policy_decision*) {});
  ASSERT_TRUE(keeper_->Set(7, "scripted").ok());
  Turn();
  EXPECT_EQ(keeper_->Describe().size(), 1u);
  EXPECT_EQ(Only()["state"], "frozen");
}

}  // namespace
}  // namespace moult::control
