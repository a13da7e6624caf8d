// SPDX-License-Identifier: Apache-2.0
#include "policy/policy.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <vector>

#include "policy/builtin.h"

namespace moult::host {
namespace {

using std::chrono::hours;
using std::chrono::milliseconds;
using std::chrono::minutes;
using std::chrono::seconds;
using ::testing::HasSubstr;

constexpr uint64_t kMib = 1 << 20;

FunctionView IdleFor(Micros idle) {
  FunctionView view;
  view.last_start = hours(1);
  view.last_end = hours(1) + seconds(1);
  view.now = view.last_end + idle;
  view.segments[Segment::kRuntime].resident = 50 * kMib;
  view.segments[Segment::kInit].resident = 30 * kMib;
  view.segments[Segment::kExec].resident = 20 * kMib;
  return view;
}

void Offload(FunctionView& view, Segment segment) {
  view.segments[segment].offloaded += std::exchange(view.segments[segment].resident, 0);
}

std::unique_ptr<Policy> Make(const char* spec) {
  auto policy = MakePolicy(spec);
  EXPECT_TRUE(policy.ok()) << policy.status();
  return *std::move(policy);
}

TEST(IntervalsTest, Percentile_IsAtMostAFifthAboveTheTruth) {
  std::mt19937_64 random(1);
  Intervals intervals;
  std::vector<int64_t> truth;
  for (int i = 0; i < 3000; ++i) {
    truth.push_back(static_cast<int64_t>(1000 + (random() % 1'000'000) * (random() % 1000)));
    intervals.Add(Micros(truth.back()));
  }
  std::sort(truth.begin(), truth.end());
  for (const double p : {0.01, 0.25, 0.5, 0.9, 0.99, 1.0}) {
    const int64_t exact = truth[static_cast<size_t>(p * 3000) - 1];
    EXPECT_GE(intervals.Percentile(p).count(), exact) << p;
    EXPECT_LT(static_cast<double>(intervals.Percentile(p).count()), 1.2 * static_cast<double>(exact)) << p;
  }
}

TEST(IntervalsTest, Edges_AreWithinTheirBucket) {
  for (const int64_t edge : {1000, 2000, 4000, 1024000}) {
    Intervals at;
    at.Add(Micros(edge));
    EXPECT_EQ(at.Percentile(1).count(), edge);
    Intervals after;
    after.Add(Micros(edge + 1));
    EXPECT_GT(after.Percentile(1).count(), edge);
  }
}

TEST(IntervalsTest, Extremes_AreCounted) {
  Intervals intervals;
  EXPECT_EQ(intervals.Percentile(0.5), Micros(0));
  intervals.Add(Micros(-5));
  EXPECT_EQ(intervals.Percentile(0), milliseconds(1));
  intervals.Add(Micros::max());
  EXPECT_EQ(intervals.count(), 2u);
  EXPECT_GT(intervals.Percentile(1), hours(24 * 24));
}

TEST(IntervalsTest, Past_Fades) {
  Intervals intervals;
  for (uint32_t i = 0; i < Intervals::kMost; ++i) intervals.Add(hours(1));
  EXPECT_EQ(intervals.count(), Intervals::kMost);
  for (uint32_t i = 0; i < 3 * Intervals::kMost; ++i) intervals.Add(seconds(1));
  EXPECT_LE(intervals.count(), Intervals::kMost);
  EXPECT_LT(intervals.Percentile(0.8), seconds(2));
}

TEST(NonePolicyTest, Next_LeavesEverything_WhenIdleForYears) {
  const Decision decision = Make("none")->Next(IdleFor(hours(100'000)));
  EXPECT_FALSE(decision.end || decision.freeze);
  EXPECT_EQ(decision.offload[Segment::kExec], 0u);
  EXPECT_EQ(decision.wake_after, kNever);
}

TEST(FixedPolicyTest, Next_EndsAtTheMoment) {
  const auto policy = Make("fixed:keep_alive_s=3");
  EXPECT_EQ(policy->Next(IdleFor(seconds(0))).wake_after, seconds(3));
  const Decision before = policy->Next(IdleFor(seconds(3) - Micros(1)));
  EXPECT_FALSE(before.end);
  EXPECT_EQ(before.wake_after, Micros(1));
  EXPECT_TRUE(policy->Next(IdleFor(seconds(3))).end);
}

TEST(FixedPolicyTest, Next_LeavesAFunctionThatIsWanted) {
  FunctionView view = IdleFor(hours(1));
  for (const FunctionState state : {FunctionState::kRunning, FunctionState::kRequested}) {
    view.state = state;
    EXPECT_FALSE(Make("fixed")->Next(view).end);
  }
}

TEST(SemiWarmPolicyTest, Next_TakesExecAtOnce_ThenInit_ThenRuntimeInSteps) {
  const auto policy = Make("semi-warm:settle_s=0:init_unknown_s=60:step_mib=1:step_share=0");
  FunctionView view = IdleFor(Micros(0));
  Decision decision = policy->Next(view);
  EXPECT_TRUE(decision.freeze);
  EXPECT_EQ(decision.offload[Segment::kExec], 20 * kMib);
  EXPECT_EQ(decision.offload[Segment::kInit], 0u);
  EXPECT_EQ(decision.offload[Segment::kRuntime], 0u);
  EXPECT_EQ(decision.wake_after, seconds(60));

  Offload(view, Segment::kExec);
  view.state = FunctionState::kFrozen;
  view.now += decision.wake_after;
  decision = policy->Next(view);
  EXPECT_EQ(decision.offload[Segment::kExec], 0u);
  EXPECT_EQ(decision.offload[Segment::kInit], 30 * kMib);
  EXPECT_EQ(decision.offload[Segment::kRuntime], kMib);
  EXPECT_EQ(decision.wake_after, seconds(1));
}

TEST(SemiWarmPolicyTest, Step_IsTheLargerOfSizeAndShare_AndNeverMoreThanThereIs) {
  FunctionView view = IdleFor(hours(1));
  EXPECT_EQ(Make("semi-warm:step_mib=1:step_share=0.1")->Next(view).offload[Segment::kRuntime], 5 * kMib);
  EXPECT_EQ(Make("semi-warm:step_mib=7:step_share=0.1")->Next(view).offload[Segment::kRuntime], 7 * kMib);
  view.segments[Segment::kRuntime].resident = 100;
  EXPECT_EQ(Make("semi-warm")->Next(view).offload[Segment::kRuntime], 100u);
}

TEST(SemiWarmPolicyTest, Next_EndsOnlyWhatHasNothingLeft) {
  const auto policy = Make("semi-warm:end_after_s=7200");
  FunctionView view = IdleFor(hours(9));
  EXPECT_FALSE(policy->Next(view).end);
  for (const Segment segment : kAllSegments) Offload(view, segment);
  EXPECT_TRUE(policy->Next(view).end);
  view.now = view.last_end + hours(2) - seconds(5);
  EXPECT_FALSE(policy->Next(view).end);
  EXPECT_EQ(policy->Next(view).wake_after, seconds(5));
}

TEST(SemiWarmPolicyTest, Next_AsksAgain_AsLongAsSomethingIsLeft) {
  const auto policy = Make("semi-warm");
  FunctionView view = IdleFor(hours(9));
  Offload(view, Segment::kRuntime);
  Offload(view, Segment::kInit);
  EXPECT_EQ(policy->Next(view).wake_after, seconds(1));
}

TEST(SemiWarmPolicyTest, Init_WaitsForThePercentileOfTheFunctionsOwnIntervals) {
  Intervals intervals;
  for (int i = 0; i < 95; ++i) intervals.Add(seconds(2));
  for (int i = 0; i < 5; ++i) intervals.Add(seconds(100));
  FunctionView view = IdleFor(seconds(1));
  view.intervals = &intervals;
  const Micros early = Make("semi-warm:init_percentile=0.9")->Next(view).wake_after + seconds(1);
  EXPECT_GE(early, seconds(2));
  EXPECT_LT(early, milliseconds(2400));
  const Micros late = Make("semi-warm:init_percentile=0.99")->Next(view).wake_after + seconds(1);
  EXPECT_GE(late, seconds(100));
  EXPECT_LT(late, seconds(120));
  EXPECT_EQ(Make("semi-warm:init_most_s=50")->Next(view).wake_after, seconds(49));
  EXPECT_EQ(Make("semi-warm:init_percentile=0.1:init_least_s=30")->Next(view).wake_after, seconds(29));
  EXPECT_EQ(Make("semi-warm:init_known=101:init_unknown_s=11")->Next(view).wake_after, seconds(10));
}

TEST(SemiWarmPolicyTest, Pressure_ShrinksTheWaits) {
  const auto policy = Make("semi-warm:settle_s=0:init_unknown_s=60:pressure_from=0.5");
  FunctionView view = IdleFor(Micros(0));
  view.pressure = 0.5;
  EXPECT_EQ(policy->Next(view).wake_after, seconds(60));
  view.pressure = 0.75;
  EXPECT_EQ(policy->Next(view).wake_after, seconds(30));
  view.pressure = 1;
  EXPECT_EQ(policy->Next(view).offload[Segment::kInit], 30 * kMib);
}

TEST(SemiWarmPolicyTest, Request_BringsBackAsConfigured) {
  FunctionView view = IdleFor(minutes(30));
  view.state = FunctionState::kRequested;
  const Decision decision = Make("semi-warm")->Next(view);
  EXPECT_EQ(decision.recall, Recall::kWorkingSet);
  EXPECT_FALSE(decision.freeze || decision.end);
  EXPECT_EQ(decision.offload[Segment::kExec], 0u);
  EXPECT_EQ(Make("semi-warm:recall=all")->Next(view).recall, Recall::kAll);
  EXPECT_EQ(Make("semi-warm:recall=faults")->Next(view).recall, Recall::kFaults);
}

TEST(SemiWarmPolicyTest, Next_IsTheSameForTheSameView) {
  const auto policy = Make("semi-warm");
  const FunctionView view = IdleFor(seconds(75));
  const Decision first = policy->Next(view);
  policy->Next(IdleFor(hours(4)));
  const Decision again = policy->Next(view);
  EXPECT_EQ(first.offload.values, again.offload.values);
  EXPECT_EQ(first.wake_after, again.wake_after);
}

// Whatever the sizes, it comes to an end by itself, and never asks for more than there is.
TEST(SemiWarmPolicyTest, Idle_EndsInBoundedSteps) {
  std::mt19937_64 random(7);
  for (int round = 0; round < 50; ++round) {
    const auto policy = Make("semi-warm");
    FunctionView view = IdleFor(Micros(0));
    for (const Segment segment : kAllSegments) view.segments[segment].resident = random() % (4096 * kMib);
    int asked = 0;
    for (;; ++asked) {
      ASSERT_LT(asked, 120);
      const Decision decision = policy->Next(view);
      if (decision.end) break;
      for (const Segment segment : kAllSegments) {
        ASSERT_LE(decision.offload[segment], view.segments[segment].resident);
        view.segments[segment].resident -= decision.offload[segment];
        view.segments[segment].offloaded += decision.offload[segment];
      }
      ASSERT_GT(decision.wake_after, Micros(0));
      ASSERT_NE(decision.wake_after, kNever);
      view.now += decision.wake_after;
    }
    EXPECT_EQ(view.Resident(), 0u);
  }
}

TEST(MakePolicyTest, Spec_IsRefused_WhenItMakesNoSense) {
  const struct {
    const char* spec;
    absl::StatusCode code;
    const char* message;
  } kBad[] = {
      {"", absl::StatusCode::kInvalidArgument, "there is no policy \"\"; there are none, fixed, semi-warm"},
      {"warm", absl::StatusCode::kInvalidArgument, "there is no policy \"warm\""},
      {"none:x=1", absl::StatusCode::kInvalidArgument,
       "policy none: there is no parameter \"x\"; it has none"},
      {"fixed:keep=1", absl::StatusCode::kInvalidArgument, "no parameter \"keep\"; it has keep_alive_s"},
      {"fixed:keep_alive_s", absl::StatusCode::kInvalidArgument, "keep_alive_s: \"\" is no number from 0 to"},
      {"fixed:keep_alive_s=-1", absl::StatusCode::kInvalidArgument, "\"-1\" is no number"},
      {"fixed:keep_alive_s=nan", absl::StatusCode::kInvalidArgument, "\"nan\" is no number"},
      {"fixed:keep_alive_s=1e300", absl::StatusCode::kInvalidArgument, "is no number"},
      {"semi-warm:init_percentile=1.5", absl::StatusCode::kInvalidArgument, "is no number from 0 to 1"},
      {"semi-warm:init_known=0", absl::StatusCode::kInvalidArgument, "init_known"},
      {"semi-warm:recall=later", absl::StatusCode::kInvalidArgument, "none of faults, working-set, all"},
      {"semi-warm:step_every_s=0", absl::StatusCode::kInvalidArgument, "step_every_s is under 0.001"},
  };
  for (const auto& bad : kBad) {
    const absl::Status status = MakePolicy(bad.spec).status();
    EXPECT_EQ(status.code(), bad.code) << bad.spec << ": " << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr(bad.message)) << bad.spec;
  }
}

}  // namespace
}  // namespace moult::host
