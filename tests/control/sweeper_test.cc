// SPDX-License-Identifier: Apache-2.0
#include "control/sweeper.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <thread>

#include "fake_moult.h"

namespace moult::control {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

// Without a server: it looks when the test turns.
class SweeperTest : public ::testing::Test {
 protected:
  void SetUp() override {
    fake::Reset();
    moult_vm_options options = MOULT_INIT(options);
    ASSERT_EQ(moult_vm_create(&options, &vm_), 0);
    sweeper_ = std::make_unique<Sweeper>(
        vm_, Sweeper::Hooks{[this](int, const std::string& message) { messages_.push_back(message); }, moult_op_free});
  }
  void TearDown() override {
    sweeper_.reset();
    ASSERT_GE(moult_vm_process(vm_), 0);
    EXPECT_EQ(fake::LiveOps(), 0);
    moult_vm_close(vm_);
  }
  // As the server's loop does.
  void Turn() {
    for (int i = 0; i < 5; ++i) {
      ASSERT_GE(moult_vm_process(vm_), 0);
      sweeper_->Tick();
    }
  }
  static long Begun() { return std::ranges::count(fake::Log(), "sweep 0"); }

  moult_vm* vm_ = nullptr;
  std::unique_ptr<Sweeper> sweeper_;
  std::vector<std::string> messages_;
};

TEST_F(SweeperTest, Begins_WhenAFunctionHasEnded) {
  Turn();
  EXPECT_THAT(fake::Log(), IsEmpty());
  EXPECT_EQ(sweeper_->next(), Sweeper::Clock::time_point::max());
  fake::SetUnswept(1);
  EXPECT_LE(sweeper_->next(), Sweeper::Clock::now());
  Turn();
  EXPECT_THAT(fake::Log(), ElementsAre("sweep 0", "end sweep OK"));
  EXPECT_EQ(sweeper_->Describe(), (Json{{"functions", 0}, {"running", false}, {"sweeps", 1}, {"failures", 0}}));
  EXPECT_THAT(messages_, IsEmpty());
}

TEST_F(SweeperTest, OneAtATime) {
  fake::HoldSweeps(true);
  fake::SetUnswept(1);
  Turn();
  fake::SetUnswept(2);
  Turn();
  EXPECT_EQ(Begun(), 1);
  EXPECT_EQ(sweeper_->Describe()["running"], true);
  EXPECT_EQ(sweeper_->Describe()["functions"], 2);
  EXPECT_EQ(sweeper_->next(), Sweeper::Clock::time_point::max()) << "its end is what comes next";
}

TEST_F(SweeperTest, Failure_IsToldOnce_AndTriedAgainLaterAndLater) {
  fake::SetUnswept(1);
  fake::FailNext("sweep", MOULT_FAILED_PRECONDITION, 2);
  Turn();
  EXPECT_EQ(Begun(), 1) << "not at once";
  EXPECT_EQ(sweeper_->Describe()["error"]["name"], "FAILED_PRECONDITION");
  EXPECT_GT(sweeper_->Describe()["next_ms"], 0);
  ASSERT_EQ(messages_.size(), 1u);
  EXPECT_THAT(messages_[0], HasSubstr("sweep: FAILED_PRECONDITION; it is tried again"));
  const auto first = sweeper_->next() - Sweeper::Clock::now();
  std::this_thread::sleep_until(sweeper_->next());
  Turn();
  EXPECT_EQ(Begun(), 2);
  EXPECT_GT(sweeper_->next() - Sweeper::Clock::now(), first);
  EXPECT_EQ(messages_.size(), 1u) << "the same again";
  std::this_thread::sleep_until(sweeper_->next());
  Turn();
  EXPECT_EQ(Begun(), 3);
  EXPECT_EQ(sweeper_->Describe(), (Json{{"functions", 0}, {"running", false}, {"sweeps", 3}, {"failures", 2}}));
  EXPECT_EQ(messages_.size(), 2u) << "that it has worked at last";
}

TEST_F(SweeperTest, Failure_HoldsUpNoFunctionThatEndsMeanwhile) {
  fake::SetUnswept(1);
  fake::FailNext("sweep", MOULT_FAILED_PRECONDITION);
  Turn();
  fake::SetUnswept(2);
  Turn();
  EXPECT_EQ(Begun(), 2);
  EXPECT_EQ(sweeper_->Describe()["functions"], 0);
}

TEST_F(SweeperTest, WithoutAVm_ThereIsNothingToDo) {
  Sweeper none(nullptr, {});
  none.Tick();
  EXPECT_EQ(none.next(), Sweeper::Clock::time_point::max());
  EXPECT_EQ(none.Describe()["functions"], 0);
}

}  // namespace
}  // namespace moult::control
