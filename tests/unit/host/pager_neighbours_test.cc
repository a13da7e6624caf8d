// SPDX-License-Identifier: Apache-2.0
//
// What comes with a page that is touched: its neighbours as the function sees them, wherever in guest RAM they lie.
#include <numeric>

#include "pager_fixture.h"

namespace moult::host::testing {
namespace {

using ::testing::ElementsAreArray;

class PagerNeighbours : public PagerTest {
 protected:
  static constexpr uint64_t kPages = 256;
  static constexpr uint64_t kGroup = 8;  // PagerConfig::neighbours, and the page itself

  // The frame of the function's page `i`. Whatever is near by one of the two is far by the other.
  static uint64_t FrameOf(uint64_t i) { return i * 37 % kPages; }
  static OffloadRun Run(uint64_t i, uint64_t va, uint32_t pid = 1) { return {Range(FrameOf(i)), va, pid}; }
  void StartOut(const std::vector<OffloadRun>& runs) {
    Start(kPages);
    FillRam();
    for (uint64_t page = 0; page < kPages; ++page) {
      if (Untouched(page)) *Page(page) = std::byte{0};  // has a frame, so that all have left in the same way
    }
    ASSERT_EQ(Offload(runs).stayed_bytes, 0u);
    ASSERT_EQ(HostBytes(), (kPages - runs.size()) * kPage);
  }
  // Frames that are back once the fault of this one has been served, which says so when its neighbours are there as well.
  std::vector<uint64_t> BackAfterTouch(uint64_t frame) {
    EXPECT_TRUE(PageIsWhole(frame));
    for (PagerStats stats; stats = pager_->stats(), std::accumulate(stats.fault_us.begin(), stats.fault_us.end(), uint64_t{0}) == 0;)
      std::this_thread::yield();
    EXPECT_EQ(pager_->owner_stats(kOwner).faults, 1u);
    std::vector<unsigned char> there(kPages);
    EXPECT_EQ(mincore(ram_, kPages * kPage, there.data()), 0);
    const std::vector<bool> out = pager_->Out(Range(0, kPages));
    std::vector<uint64_t> back;
    for (uint64_t page = 0; page < kPages; ++page) {
      EXPECT_NE((there[page] & 1) != 0, out[page]) << "what is told of page " << page;
      if (!out[page]) back.push_back(page);
    }
    return back;
  }
  // Their frames in rising order, but for those of zeros, which cost nothing to bring later.
  static std::vector<uint64_t> FramesOf(uint64_t first, uint64_t count) {
    std::vector<uint64_t> frames;
    for (uint64_t i = first; i < first + count; ++i) {
      if (!Zero(FrameOf(i))) frames.push_back(FrameOf(i));
    }
    std::sort(frames.begin(), frames.end());
    return frames;
  }
};
INSTANTIATE_TEST_SUITE_P(Kinds, PagerNeighbours, ::testing::Values(Kind::kMemfd, Kind::kAnonymous), KindName);

TEST_P(PagerNeighbours, AreThoseByVirtualAddress) {
  std::vector<OffloadRun> runs;
  for (uint64_t i = 0; i < kPages; ++i) runs.push_back(Run(i, kVa + i * kPage));
  StartOut(runs);
  constexpr uint64_t kTouched = 13 * kGroup + 4;
  ASSERT_FALSE(Zero(FrameOf(kTouched)));
  const std::vector<uint64_t> group = FramesOf(13 * kGroup, kGroup);
  ASSERT_EQ(group.size(), kGroup - 1) << "with one of zeros";
  EXPECT_THAT(BackAfterTouch(FrameOf(kTouched)), ElementsAreArray(group));
  ExpectWhole(0, kPages);
}

// Those that follow each other in the order of an offload need not be neighbours: here something else begins in the midst of a group.
TEST_P(PagerNeighbours, AreNotBeyondAHoleInTheAddresses) {
  constexpr uint64_t kSecond = 3 * kGroup + 3;
  std::vector<OffloadRun> runs;
  for (uint64_t i = 0; i < kPages; ++i) runs.push_back(Run(i, kVa + (i < kSecond ? i : i + kGroup) * kPage));
  StartOut(runs);
  ASSERT_FALSE(Zero(FrameOf(kSecond)));
  EXPECT_THAT(BackAfterTouch(FrameOf(kSecond)), ElementsAreArray(FramesOf(kSecond, kGroup - 3)));
  ExpectWhole(0, kPages);
}

TEST_P(PagerNeighbours, AreOfOneProcess) {
  constexpr uint64_t kSecond = 3 * kGroup + 3;
  std::vector<OffloadRun> runs;
  for (uint64_t i = 0; i < kPages; ++i) runs.push_back(Run(i, kVa + i * kPage, i < kSecond ? 1 : 2));
  StartOut(runs);
  EXPECT_THAT(BackAfterTouch(FrameOf(kSecond)), ElementsAreArray(FramesOf(kSecond, kGroup - 3)));
  ExpectWhole(0, kPages);
}

}  // namespace
}  // namespace moult::host::testing
