// SPDX-License-Identifier: Apache-2.0
#include "ledger/hold.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "moult/base/page.h"

namespace moult::agent {
namespace {

using Runs = std::vector<FrameRun>;

FrameRun At(uint64_t page, uint64_t pages) { return {page * kPage, pages * kPage}; }

class HoldTest : public ::testing::Test {
 protected:
  // Each find gives the next of `finds`, the last one from then on; what `refused` names cannot be held.
  absl::StatusOr<Runs> Run(std::vector<Runs> finds, const Runs& refused = {}) {
    return HoldWhatIsFound(
        [this, finds]() -> absl::StatusOr<Runs> { return finds[std::min(found_++, finds.size() - 1)]; },
        [this, refused](const Runs& runs) -> absl::StatusOr<Runs> {
          ++held_;
          Runs held;
          for (const FrameRun& run : runs) {
            if (std::find(refused.begin(), refused.end(), run) == refused.end()) held.push_back(run);
          }
          return held;
        });
  }
  size_t found_ = 0;
  size_t held_ = 0;
};

TEST_F(HoldTest, WhatStays_IsHeldOnce) {
  const Runs pages{At(3, 2), At(9, 1)};
  const auto got = Run({pages});
  ASSERT_TRUE(got.ok()) << got.status();
  EXPECT_EQ(*got, pages);
  EXPECT_EQ(held_, 1u);
}

TEST_F(HoldTest, WhatMoved_IsHeldWhereItIsNow) {
  const Runs before{At(3, 2), At(9, 1)}, after{At(3, 2), At(20, 1)};
  const auto got = Run({before, after});
  ASSERT_TRUE(got.ok()) << got.status();
  EXPECT_EQ(*got, after);
  EXPECT_EQ(held_, 2u);
}

TEST_F(HoldTest, WhatWasOnItsWay_IsNotLeftOut) {
  const Runs on_its_way{At(3, 2)}, arrived{At(3, 2), At(20, 1)};
  const auto got = Run({on_its_way, arrived});
  ASSERT_TRUE(got.ok()) << got.status();
  EXPECT_EQ(*got, arrived);
}

TEST_F(HoldTest, WhatCannotBeHeld_IsNotGivenAway) {
  const auto got = Run({{At(3, 2), At(9, 1)}}, {At(9, 1)});
  EXPECT_EQ(got.status().code(), absl::StatusCode::kAborted);
  EXPECT_THAT(got.status().message(), ::testing::HasSubstr("try again"));
}

TEST_F(HoldTest, NoPages_AreFine) {
  const auto got = Run({{}});
  ASSERT_TRUE(got.ok()) << got.status();
  EXPECT_TRUE(got->empty());
}

TEST_F(HoldTest, Error_IsToldAsItIs) {
  const auto got = HoldWhatIsFound([] { return absl::StatusOr<Runs>(absl::PermissionDeniedError("no")); },
                                   [](const Runs& runs) { return absl::StatusOr<Runs>(runs); });
  EXPECT_EQ(got.status().code(), absl::StatusCode::kPermissionDenied);
}

}  // namespace
}  // namespace moult::agent
