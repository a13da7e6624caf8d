// SPDX-License-Identifier: Apache-2.0
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cerrno>
#include <cmath>
#include <cstring>

#include "moult/policy.h"

namespace {

using ::testing::HasSubstr;

class PolicyApiTest : public ::testing::Test {
 protected:
  ~PolicyApiTest() override { moult_policy_close(policy_); }
  int Next() { return moult_policy_next(policy_, &view_, &decision_); }

  moult_policy* policy_ = nullptr;
  moult_function_view view_ = MOULT_INIT(view_);
  moult_policy_decision decision_ = MOULT_INIT(decision_);
};

TEST_F(PolicyApiTest, BuiltIn_Decides) {
  ASSERT_EQ(moult_policy_open("semi-warm:settle_s=0:init_unknown_s=5", &policy_), 0) << moult_last_error();
  view_.last_end_us = 1000;
  view_.now_us = 1000;
  view_.resident[MOULT_SEGMENT_EXEC] = 4096;
  view_.resident[MOULT_SEGMENT_RUNTIME] = 8192;
  ASSERT_EQ(Next(), 0) << moult_last_error();
  EXPECT_EQ(decision_.size, sizeof(decision_));
  EXPECT_EQ(decision_.end, 0u);
  EXPECT_EQ(decision_.freeze, 1u);
  EXPECT_EQ(decision_.offload[MOULT_SEGMENT_EXEC], 4096u);
  EXPECT_EQ(decision_.offload[MOULT_SEGMENT_RUNTIME], 0u);
  EXPECT_EQ(decision_.wake_after_us, 5'000'000u);
  view_.state = MOULT_FUNCTION_REQUESTED;
  ASSERT_EQ(Next(), 0);
  EXPECT_EQ(decision_.recall, static_cast<uint32_t>(MOULT_RECALL_WORKING_SET));
  EXPECT_EQ(decision_.wake_after_us, UINT64_MAX);
}

TEST_F(PolicyApiTest, BuiltIn_LearnsFromIntervals) {
  ASSERT_EQ(moult_policy_open("semi-warm", &policy_), 0) << moult_last_error();
  moult_intervals* intervals = nullptr;
  ASSERT_EQ(moult_intervals_create(&intervals), 0);
  for (int i = 0; i < 20; ++i) moult_intervals_add(intervals, 8'192'000);
  EXPECT_EQ(moult_intervals_count(intervals), 20u);
  EXPECT_EQ(moult_intervals_percentile(intervals, 0.5), 8'192'000u);
  view_.intervals = intervals;
  view_.now_us = 1'000'000;
  ASSERT_EQ(Next(), 0);
  EXPECT_EQ(decision_.wake_after_us, 7'192'000u);
  moult_intervals_free(intervals);
}

TEST_F(PolicyApiTest, Open_TellsWhatIsWrong) {
  EXPECT_EQ(moult_policy_open("warmest", &policy_), -EINVAL);
  EXPECT_THAT(moult_last_error(), HasSubstr("there is no policy \"warmest\""));
  EXPECT_EQ(moult_policy_open("fixed:keep_alive_s=x", &policy_), -EINVAL);
  EXPECT_EQ(policy_, nullptr);
  EXPECT_EQ(moult_policy_open(nullptr, &policy_), -EINVAL);
  EXPECT_THAT(moult_last_error(), HasSubstr("spec is NULL"));
}

TEST_F(PolicyApiTest, Own_SeesTheFunction_AndIsKeptHarmless) {
  struct Seen {
    moult_function_view view;
    uint32_t intervals;
  } seen{};
  moult_policy_options options = MOULT_INIT(options);
  options.user = &seen;
  options.next = [](void* user, const moult_function_view* view, moult_policy_decision* decision) {
    auto* to = static_cast<Seen*>(user);
    to->view = *view;
    to->intervals = moult_intervals_count(view->intervals);
    EXPECT_EQ(decision->wake_after_us, UINT64_MAX);
    decision->freeze = 7;
    decision->recall = 99;
    decision->offload[MOULT_SEGMENT_INIT] = UINT64_MAX;
    decision->wake_after_us = 12;
  };
  ASSERT_EQ(moult_policy_create(&options, &policy_), 0) << moult_last_error();
  moult_intervals* intervals = nullptr;
  ASSERT_EQ(moult_intervals_create(&intervals), 0);
  moult_intervals_add(intervals, 5);
  view_.function = 42;
  view_.state = MOULT_FUNCTION_FROZEN;
  view_.now_us = 3;
  view_.last_start_us = 1;
  view_.last_end_us = 2;
  view_.pressure = 0.25;
  view_.resident[MOULT_SEGMENT_INIT] = 100;
  view_.offloaded[MOULT_SEGMENT_EXEC] = 200;
  view_.intervals = intervals;
  ASSERT_EQ(Next(), 0) << moult_last_error();
  moult_intervals_free(intervals);
  seen.view.intervals = view_.intervals;  // the library's copy, else
  EXPECT_EQ(std::memcmp(&seen.view, &view_, sizeof(view_)), 0);
  EXPECT_EQ(seen.intervals, 1u);
  EXPECT_EQ(decision_.freeze, 1u);
  EXPECT_EQ(decision_.recall, static_cast<uint32_t>(MOULT_RECALL_FAULTS));
  EXPECT_EQ(decision_.offload[MOULT_SEGMENT_INIT], 100u);
  EXPECT_EQ(decision_.offload[MOULT_SEGMENT_RUNTIME], 0u);
  EXPECT_EQ(decision_.wake_after_us, 12u);
}

TEST_F(PolicyApiTest, Own_NeedsItsFunction) {
  moult_policy_options options = MOULT_INIT(options);
  EXPECT_EQ(moult_policy_create(&options, &policy_), -EINVAL);
  EXPECT_THAT(moult_last_error(), HasSubstr("next is NULL"));
  EXPECT_EQ(moult_policy_create(nullptr, &policy_), -EINVAL);
}

TEST_F(PolicyApiTest, Next_RefusesNonsense) {
  EXPECT_EQ(Next(), -EINVAL);
  EXPECT_THAT(moult_last_error(), HasSubstr("policy is NULL"));
  ASSERT_EQ(moult_policy_open("none", &policy_), 0);
  view_.state = 4;
  EXPECT_EQ(Next(), -EINVAL);
  EXPECT_THAT(moult_last_error(), HasSubstr("there is no state 4"));
  view_.state = MOULT_FUNCTION_IDLE;
  view_.pressure = std::nan("");
  EXPECT_EQ(Next(), -EINVAL);
  EXPECT_THAT(moult_last_error(), HasSubstr("it goes from 0 to 1"));
  view_.pressure = 0;
  view_.size = 0;
  EXPECT_EQ(Next(), -EINVAL);
  EXPECT_THAT(moult_last_error(), HasSubstr("moult_function_view: size is 0"));
  view_.size = sizeof(view_);
  decision_.size = 0;
  EXPECT_EQ(Next(), -EINVAL);
  EXPECT_THAT(moult_last_error(), HasSubstr("moult_policy_decision"));
}

TEST_F(PolicyApiTest, Next_WritesNoMoreThanAnOlderCallerHas) {
  ASSERT_EQ(moult_policy_open("fixed:keep_alive_s=1", &policy_), 0);
  view_.now_us = 2'000'000;
  decision_.size = offsetof(moult_policy_decision, freeze);
  decision_.wake_after_us = 77;
  ASSERT_EQ(Next(), 0) << moult_last_error();
  EXPECT_EQ(decision_.end, 1u);
  EXPECT_EQ(decision_.wake_after_us, 77u);
}

TEST_F(PolicyApiTest, HugeNumbers_AreCutOff) {
  ASSERT_EQ(moult_policy_open("semi-warm:step_share=1", &policy_), 0);
  view_.now_us = UINT64_MAX;
  view_.resident[MOULT_SEGMENT_RUNTIME] = UINT64_MAX;
  view_.resident[MOULT_SEGMENT_INIT] = UINT64_MAX;
  view_.offloaded[MOULT_SEGMENT_RUNTIME] = UINT64_MAX;
  EXPECT_EQ(Next(), 0) << moult_last_error();
  EXPECT_EQ(decision_.offload[MOULT_SEGMENT_INIT], uint64_t{1} << 60);
  EXPECT_EQ(decision_.offload[MOULT_SEGMENT_RUNTIME], uint64_t{1} << 60);
}

}  // namespace
