// SPDX-License-Identifier: Apache-2.0
//
// An agent tells of pages by their place in guest RAM; they go out in the order of the function's addresses, whose neighbours
// come back together.
#include <sys/mman.h>

#include "offload_fixture.h"

namespace moult::host::testing {
namespace {

using ::testing::ElementsAreArray;

class OffloadOrderTest : public OffloadTest {
 protected:
  static constexpr uint64_t kMapped = 60;    // no multiple of a group, so that groups that are counted the other way are others
  static constexpr uint64_t kUnmapped = 4;   // of a memory file that nobody maps, in the midst of the others
  static constexpr uint64_t kGroup = 8;      // PagerConfig::neighbours, and the page itself
  static constexpr uint64_t kLowest = 0x10000;

  // Every other page of RAM, in rising order, as a report has to be; the addresses fall.
  static std::vector<PageRun> Falling() {
    std::vector<PageRun> runs;
    uint64_t left = kMapped;
    for (uint64_t i = 0; i < kMapped + kUnmapped; ++i) {
      const bool mapped = i < kMapped / 2 || i >= kMapped / 2 + kUnmapped;
      runs.emplace_back(kRamGpa + 2 * i * kPageBytes, kPageBytes, mapped ? kLowest + --left * kPageBytes : 0, 0, kFunction, mapped ? 300 : 0, 0,
                        mapped ? PageClass::UserPrivate : PageClass::UserShared, PageKind::Anonymous, mapped ? 3 : 0, rpc::Segment::None,
                        PageFlag{});
    }
    return runs;
  }
  // The page of RAM in which the function has the `i`-th of its addresses.
  static uint64_t PageOf(uint64_t i) {
    for (const PageRun& run : Falling()) {
      if (run.pid() != 0 && run.va() == kLowest + i * kPageBytes) return (run.gpa() - kRamGpa) / kPageBytes;
    }
    ADD_FAILURE() << "no address " << i;
    return 0;
  }
  // Pages of RAM that are there.
  std::vector<bool> There() const {
    std::vector<unsigned char> told(kRamBytes / kPageBytes);
    EXPECT_EQ(mincore(guest_.ram, kRamBytes, told.data()), 0);
    std::vector<bool> there;
    for (const unsigned char each : told) there.push_back((each & 1) != 0);
    return there;
  }
  // Those that are back once this one has been touched, and its fault has been served to the end.
  std::vector<uint64_t> BackAfterTouch(uint64_t page) {
    const std::vector<bool> before = There();
    const auto served = [this] {
      uint64_t faults = 0;
      const nlohmann::json info = PagerInfo();
      for (const nlohmann::json& of : info["fault_us_log2"]) faults += of.get<uint64_t>();
      return faults;
    };
    const uint64_t until = served() + 1;
    EXPECT_FALSE(before[page]);
    EXPECT_EQ(guest_.ram[page * kPageBytes], static_cast<uint8_t>(page * kPageBytes * 7 + page + 1));
    while (served() < until) std::this_thread::yield();
    const std::vector<bool> after = There();
    std::vector<uint64_t> back;
    for (uint64_t i = 0; i < after.size(); ++i) {
      if (after[i] && !before[i]) back.push_back(i);
    }
    return back;
  }
  // In rising order of RAM.
  static std::vector<uint64_t> PagesOf(uint64_t first, uint64_t count) {
    std::vector<uint64_t> pages;
    for (uint64_t i = first + count; i-- > first;) pages.push_back(PageOf(i));
    return pages;
  }
};

TEST_F(OffloadOrderTest, Neighbours_AreThoseOfTheFunction_WhateverTheOrderOfTheReport) {
  ScriptPages(Falling());
  CreateWithPool();
  StartPager();
  ASSERT_EQ(PagerInfo()["offloaded_bytes"], (kMapped + kUnmapped) * kPageBytes);
  EXPECT_THAT(BackAfterTouch(PageOf(0)), ElementsAreArray(PagesOf(0, kGroup)));
  // The group over the place where what nobody maps lies in RAM, and the last one, which is short.
  EXPECT_THAT(BackAfterTouch(PageOf(26)), ElementsAreArray(PagesOf(24, kGroup)));
  EXPECT_THAT(BackAfterTouch(PageOf(57)), ElementsAreArray(PagesOf(56, kMapped % kGroup)));
  ExpectAllIsWell();
}

// Of each part that goes one after the other.
TEST_F(OffloadOrderTest, WhatWasTouched_GoesLast_AndInItsOwnOrder) {
  std::vector<PageRun> runs = Falling();
  for (size_t i = 0; i < runs.size(); ++i) {
    if (i % 2 != 0 && i != 1) continue;  // so that the rest is no multiple of a group
    const PageRun& run = runs[i];
    runs[i] = PageRun(run.gpa(), run.length(), run.va(), run.file_offset(), run.function(), run.pid(), run.file(), run.page_class(), run.kind(),
                      run.prot(), run.segment(), PageFlag::Accessed);
  }
  ScriptPages(runs);
  CreateWithPool();
  StartPager();
  ASSERT_EQ(Recall(MOULT_PREFETCH_ALL), 0) << moult_last_error();
  moult_offload_options offload = MOULT_INIT(offload);
  offload.function = kFunction;
  offload.most_bytes = (kMapped + kUnmapped) * kPageBytes;
  nlohmann::json json;
  ASSERT_EQ(Offload(offload, &json), 0) << moult_last_error();
  ASSERT_EQ(json["offloaded_bytes"], (kMapped + kUnmapped) * kPageBytes);
  // Every other address was not touched, the lowest among them: the first group is of eight of these.
  std::vector<uint64_t> cold = PagesOf(0, 2 * kGroup);
  std::erase_if(cold, [&](uint64_t page) { return runs[page / 2].flags() != PageFlag{}; });
  ASSERT_EQ(cold.size(), kGroup);
  EXPECT_THAT(BackAfterTouch(PageOf(8)), ElementsAreArray(cold));
  ExpectAllIsWell();
}

}  // namespace
}  // namespace moult::host::testing
